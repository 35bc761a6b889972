package report

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"castdeck/format"
)

// browser is a Chromium without a window, with one page; it ends with the test. Where
// there is none the test is skipped.
type browser struct {
	t   *testing.T
	ctx context.Context
	dir string

	mu        sync.Mutex
	complaint []string // exceptions, errors on the console, and requests
}

func newBrowser(t *testing.T) *browser {
	t.Helper()
	if testing.Short() {
		t.Skip("slow")
	}
	path := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if p, err := exec.LookPath(name); err == nil {
			path = p
			break
		}
	}
	if path == "" {
		t.Skip("Chromium is not installed")
	}
	b := &browser{t: t, dir: t.TempDir()}
	options := []chromedp.ExecAllocatorOption{chromedp.ExecPath(path), chromedp.UserDataDir(filepath.Join(b.dir, "profile")), chromedp.WindowSize(1300, 900)}
	for _, flag := range []string{
		"headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking", "disable-component-update",
		"disable-sync", "disable-dev-shm-usage",
	} {
		options = append(options, chromedp.Flag(flag, true))
	}
	ctx, stop := chromedp.NewExecAllocator(context.Background(), options...)
	b.ctx, _ = chromedp.NewContext(ctx)
	t.Cleanup(func() {
		end, cancel := context.WithTimeout(b.ctx, 30*time.Second)
		defer cancel()
		_ = chromedp.Cancel(end) // waits until it has ended
		stop()
	})
	complain := func(format string, args ...any) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.complaint = append(b.complaint, fmt.Sprintf(format, args...))
	}
	b.run() // starts it
	err := chromedp.Listen(b.ctx, func(event any) {
		switch e := event.(type) {
		case *runtime.EventExceptionThrown:
			complain("exception: %v", e.ExceptionDetails)
		case *runtime.EventConsoleAPICalled:
			args, _ := json.Marshal(e.Args)
			complain("console.%s %s", e.Type, args)
		case *log.EventEntryAdded:
			complain("%s: %s %s", e.Entry.Level, e.Entry.Text, e.Entry.URL)
		case *network.EventRequestWillBeSent:
			if u := e.Request.URL; !strings.HasPrefix(u, "file://") && !strings.HasPrefix(u, "data:,") {
				complain("request for %s", u)
			}
		}
	})
	if err == nil {
		_, err = chromedp.Call(b.ctx, network.Enable, network.EnableParams{})
	}
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// run does things in the browser.
func (b *browser) run(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	if err := chromedp.Do(b.ctx, steps...); err != nil {
		b.t.Fatalf("%v; %q", err, b.complaint)
	}
}

// open shows a document's page and waits until it is drawn.
func (b *browser) open(d *Document) {
	b.t.Helper()
	path := filepath.Join(b.dir, "page.html")
	if err := os.WriteFile(path, []byte(page(b.t, d)), 0o600); err != nil {
		b.t.Fatal(err)
	}
	b.run(chromedp.Navigate("file://"+path), chromedp.WaitReady(chromedp.CSS(`body[data-ready=yes]`)))
}

// quiet fails where anything was thrown, printed or fetched.
func (b *browser) quiet() {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.complaint) > 0 {
		b.t.Errorf("%q", b.complaint)
	}
}

// value of an expression.
func value[T any](b *browser, expression string) T {
	b.t.Helper()
	v, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		b.t.Fatalf("%s: %v", expression, err)
	}
	return v
}

// stretch that the charts show, ns.
func (b *browser) stretch() (from, to float64) {
	b.t.Helper()
	v := value[[]float64](b, `[+document.body.dataset.from, +document.body.dataset.to]`)
	return v[0], v[1]
}

// drag moves the mouse over a chart with its button down, from one part of its width to another.
func (b *browser) drag(chart string, from, to float64) {
	b.t.Helper()
	r := value[[]float64](b, `(() => { const e = document.querySelector("`+chart+` .u-over"); e.scrollIntoView({block: "center"});
		const r = e.getBoundingClientRect(); return [r.left, r.width, r.top + r.height / 2]; })()`)
	b.run(chromedp.DragAndDropXY(r[0]+from*r[1], r[2], r[0]+to*r[1], r[2]))
}

// inked is how many points of a chart's canvas are drawn on.
const inked = `((s) => { const c = document.querySelector(s + " canvas"); if (!c) return -1;
	const d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data; let n = 0; for (let i = 3; i < d.length; i += 4) if (d[i]) n++; return n; })`

// bursty makes the document of an hour of two streams with a burst and gaps.
func bursty(t *testing.T) *Document {
	at, seq := int64(began), [2]uint32{}
	return measure(t, 72_000, func(i int, d *format.Datagram) {
		if at += 50e6; i > 40_000 && i < 40_300 {
			at += 1000 - 50e6
		}
		which := i % 2
		if seq[which]++; i%10_000 == 5000 {
			seq[which] += 3
		}
		d.Time, d.Length = at, uint32(100+i%1000)
		d.Dst = netip.AddrPortFrom(netip.AddrFrom4([4]byte{239, 1, 1, byte(1 + which)}), 5000)
		n := seq[which]
		d.Payload[0], d.Payload[1], d.Payload[2], d.Payload[3] = byte(n), byte(n>>8), byte(n>>16), byte(n>>24)
	})
}

// TestRecordingInChromium: the page of a recording is drawn, zooms by drag, wheel, keys
// and rows, and comes back; nothing is printed, thrown or fetched.
func TestRecordingInChromium(t *testing.T) {
	b := newBrowser(t)
	d := bursty(t)
	b.open(d)
	for _, chart := range []string{"#rate", "#bursts-over-time", "#lanes", "#arrivals"} {
		if n := value[int](b, inked+`("`+chart+`")`); n < 1000 {
			t.Errorf("%s: %d points are drawn", chart, n)
		}
	}
	if n := value[int](b, `document.querySelectorAll("#streams tbody tr").length`); n != 2 {
		t.Errorf("%d streams", n)
	}
	if s := value[string](b, `document.querySelector(".verdicts").textContent`); !strings.Contains(s, "21 numbers missing") {
		t.Errorf("verdicts: %q", s)
	}
	from, to := b.stretch()
	if from > 0 || to < float64(d.SpanNS) {
		t.Fatalf("shows %v to %v ns of %d", from, to, d.SpanNS)
	}
	whole := to - from

	// A quarter in the middle, and the same in all charts.
	b.drag("#rate", 0.5, 0.75)
	f, l := b.stretch()
	if l-f < 0.24*whole || l-f > 0.26*whole || f < from+0.49*whole || f > from+0.51*whole {
		t.Errorf("a drag over a quarter shows %v to %v of %v", f, l, whole)
	}
	b.drag("#lanes", 0, 0.5)
	if f2, l2 := b.stretch(); l2-f2 < 0.49*(l-f) || l2-f2 > 0.51*(l-f) {
		t.Errorf("a drag over half of the lanes shows %v of %v", l2-f2, l-f)
	}
	b.run(chromedp.DoubleClick(chromedp.CSS("#rate .u-over")))
	if f, l := b.stretch(); f != from || l != to {
		t.Errorf("a double click shows %v to %v, want %v to %v", f, l, from, to)
	}
	b.run(chromedp.Focus(chromedp.CSS("#rate")), chromedp.KeyEvent("+"))
	if f, l := b.stretch(); l-f != whole/2 {
		t.Errorf("the key + shows %v of %v", l-f, whole)
	}
	b.run(chromedp.KeyEvent("0"))
	x := value[[]float64](b, `(() => { const r = document.querySelector("#rate .u-over").getBoundingClientRect(); return [r.left + r.width / 2, r.top + 50]; })()`)
	b.run(chromedp.MouseEvent(input.DispatchMouseEventTypeMouseWheel, x[0], x[1], func(p *input.DispatchMouseEventParams) {
		p.DeltaX, p.DeltaY = 0.01, -120 // 0 would be left out, and then refused
	}))
	b.run(chromedp.Poll[chromedp.Void](fmt.Sprintf(`document.body.dataset.to - document.body.dataset.from < %v`, whole))) // it may come later
	b.run(chromedp.Click(chromedp.CSS("#reset")))
	if f, l := b.stretch(); f != from || l != to {
		t.Errorf("the button shows %v to %v, want %v to %v", f, l, from, to)
	}

	// The worst burst, by the millisecond: of 50 ms.
	b.run(chromedp.Click(chromedp.CSS("#bursts tbody tr")))
	if f, l := b.stretch(); l-f != 50e6 || f > 2000e9 || l < 2000e9 {
		t.Errorf("the worst burst shows %v to %v", f, l)
	}
	if s := value[string](b, `document.querySelector("#resolution").textContent`); !strings.Contains(s, "one second by the 1 ms") {
		t.Errorf("resolution: %q", s)
	}

	// The table sorts, and a stream that is chosen no more leaves the chart's legend.
	b.run(chromedp.Click(chromedp.CSS(`#streams th:nth-child(5) button`)))
	if s := value[string](b, `document.querySelector('#streams th:nth-child(5)').getAttribute("aria-sort")`); s != "descending" {
		t.Errorf("sorted %q", s)
	}
	before := value[int](b, `document.querySelectorAll("#rate + .keys span").length`)
	b.run(chromedp.Click(chromedp.CSS(`#streams tbody input`)))
	if n := value[int](b, `document.querySelectorAll("#rate + .keys span").length`); n != before-1 {
		t.Errorf("%d lines, %d before", n, before)
	}
	b.quiet()
}

// TestOtherKindsInChromium: the pages of a comparison and of a replay are drawn and zoom.
func TestOtherKindsInChromium(t *testing.T) {
	b := newBrowser(t)
	for _, c := range []struct {
		d      *Document
		charts []string
		rows   int
	}{
		{comparedFeed(t, "100 lost"), []string{"#latency", "#differences", "#latencies", "#intervals"}, 3},
		{FromReplay(source(), replayed(), nil), []string{"#rate", "#lateness", "#latenesses", "#intervals"}, 1},
	} {
		b.open(c.d)
		for _, chart := range c.charts {
			if n := value[int](b, inked+`("`+chart+`")`); n < 1000 {
				t.Errorf("%s %s: %d points are drawn", c.d.Kind, chart, n)
			}
		}
		if n := value[int](b, `document.querySelectorAll("#streams tbody tr").length`); n != c.rows {
			t.Errorf("%s: %d rows", c.d.Kind, n)
		}
		from, to := b.stretch()
		b.drag(c.charts[1], 0.25, 0.5)
		if f, l := b.stretch(); l-f < 0.24*(to-from) || l-f > 0.26*(to-from) {
			t.Errorf("%s: a drag over a quarter shows %v of %v", c.d.Kind, l-f, to-from)
		}
	}
	b.quiet()
}

// TestColumnsInChromium holds the script that makes columns of cells against sums: no
// column overlaps another, together they hold what is in the stretch to the datagram, and
// the fullest millisecond of a second that is there in full is never lowered.
func TestColumnsInChromium(t *testing.T) {
	b := newBrowser(t)
	script, err := files.ReadFile("page/cells.js")
	if err != nil {
		t.Fatal(err)
	}
	for _, width := range []int64{1e6, 20e6, 1e9, 10e9} {
		problems := value[[]string](b, fmt.Sprintf(`(() => {
			%s
			const width = %d, problems = [];
			let seed = 1;
			const random = (n) => { seed = (seed * 48271) %% 2147483647; return seed %% n; };
			for (let round = 0; round < 40; round++) {
				const from = -random(5) * Math.max(width, 1e9), n = 200 + random(3000), cells = new Cells(from, width, { datagrams: Array(n).fill(0) }), d = cells.fields.datagrams;
				for (let i = 0; i < n; i++) d[i] = random(50);
				const seconds = [];
				if (width > 1e6) for (let s = 0; s < 20; s++) {
					const at = Math.floor(random(n) * width / 1e9) * 1e9 + from;
					if (at + 1e9 > cells.to || seconds.some((x) => x.from === at)) continue;
					const ms = Array.from({ length: 1000 }, () => random(9));
					seconds.push({ from: at, datagrams: ms });
				}
				seconds.sort((x, y) => x.from - y.from);
				for (const s of seconds) { // the cells hold them
					for (let i = 0; i < n; i++) {
						const c0 = Math.max(from + i * width, s.from), c1 = Math.min(from + (i + 1) * width, s.from + 1e9);
						if (c1 > c0) d[i] = (width <= 1e9 ? 0 : d[i]) + s.datagrams.slice(Math.round((c0 - s.from) / 1e6), Math.round((c1 - s.from) / 1e6)).reduce((x, y) => x + y, 0);
					}
				}
				const i = random(n), j = i + 1 + random(n - i), a = from + i * width, b = from + j * width; // whole cells
				const want = d.slice(i, j).reduce((x, y) => x + y, 0), list = rateColumns(cells, seconds, "datagrams", a, b, 100 + random(1500));
				const got = list.reduce((s, c) => s + c.n, 0);
				if (Math.abs(got - want) > 1e-6 * Math.max(want, 1)) problems.push("round " + round + ": " + got + ", want " + want);
				if (list.length && (list[0].t0 > a || list[list.length - 1].t1 < b)) problems.push("round " + round + ": not all of it");
				for (let k = 1; k < list.length; k++) if (list[k].t0 < list[k - 1].t1) problems.push("round " + round + ": columns overlap");
				for (const c of list) if (c.least > c.most || c.n / (c.t1 - c.t0) * 1e9 > c.most * 1.000001) problems.push("round " + round + ": a mean beyond the highest part");
				if (seconds.length) {
					const s = seconds[0], near = rateColumns(cells, seconds, "datagrams", s.from, s.from + 1e9, 1200);
					const most = Math.max(...near.filter((c) => c.t0 >= s.from && c.t1 <= s.from + 1e9).map((c) => c.most));
					if (width > 1e6 && most !== Math.max(...s.datagrams) * 1000) problems.push("round " + round + ": the fullest millisecond is " + most);
				}
			}
			return problems.slice(0, 5);
		})()`, script, width))
		if len(problems) > 0 {
			t.Errorf("cells of %d ns: %q", width, problems)
		}
	}
}

// TestPagesInChromium: pages of what is least, and of hostile names, are drawn without a
// word; and so they are narrow and in the dark.
func TestPagesInChromium(t *testing.T) {
	b := newBrowser(t)
	evil := `</script><img src="https://example.invalid/x" onerror="document.title='evil'"><script>document.title='evil'</script>`
	one := measure(t, 1, func(_ int, d *format.Datagram) { d.Time = began })
	hostile := bursty(t)
	hostile.Title = evil
	for i := range hostile.Recording.Streams {
		hostile.Recording.Streams[i].Interface = evil
		hostile.Recording.Streams[i].Group = evil
	}
	hostile.Recording.Lanes[0].Label = evil
	hostile.Recording.Events = []Event{{AtNS: 5e9, Kind: evil, Text: evil, Interface: evil}}
	hostile.Recording.Damage = []string{evil}
	for name, d := range map[string]*Document{"nothing": measure(t, 0, nil), "one datagram": one, "hostile": hostile} {
		for _, width := range []int64{360, 1300} {
			b.run(chromedp.EmulateViewport(width, 800))
			b.open(d)
			if n := value[float64](b, `document.documentElement.scrollWidth`); n > float64(width) {
				t.Errorf("%s: %v wide on a screen of %d", name, n, width)
			}
			if s := value[string](b, `document.title`); s != d.Title+" - castdeck report" {
				t.Errorf("%s: title %q", name, s)
			}
			if n := value[int](b, `document.querySelectorAll("img").length`); n != 0 {
				t.Errorf("%s: %d pictures", name, n)
			}
		}
	}
	b.quiet()
}
