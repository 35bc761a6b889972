package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"castdeck/replayer"
)

// deck is a replay that goes on, as keys and HTTP control it.
type deck struct {
	r    *replayer.Replayer
	max  bool // at full speed
	quit context.CancelFunc
}

// seek goes to a place written as parseTime reads it, or by +10s and -10s from the
// present one.
func (d *deck) seek(where string) error {
	if where != "" && (where[0] == '+' || where[0] == '-') {
		by, err := time.ParseDuration(where)
		if err != nil {
			return fmt.Errorf("%q: write a duration such as +10s or -1.5s, or a time", where)
		}
		return d.r.SeekBy(int64(by))
	}
	t, err := parseTime(where)
	if err != nil {
		return err
	}
	return d.r.SeekTime(t.ns)
}

// deckStatus is what GET /status says.
type deckStatus struct {
	State       string  `json:"state"` // playing or paused
	PositionNS  int64   `json:"position_ns"`
	Position    string  `json:"position,omitempty"`
	Speed       float64 `json:"speed"` // asked; 0 at full speed
	Datagrams   uint64  `json:"datagrams"`
	Bytes       uint64  `json:"bytes"`
	SendErrors  uint64  `json:"send_errors"`
	LatenessNS  int64   `json:"lateness_ns"`
	LatenessP99 int64   `json:"lateness_p99_ns"`
	MaxLateness int64   `json:"max_lateness_ns"`
}

func (d *deck) status() deckStatus {
	s := d.r.Stats()
	out := deckStatus{
		State: "playing", PositionNS: s.Position, Speed: s.Speed, Datagrams: s.Datagrams, Bytes: s.Bytes, SendErrors: s.SendErrors,
		LatenessNS: s.Lateness, LatenessP99: s.LatenessP99, MaxLateness: s.MaxLateness,
	}
	if s.Paused {
		out.State = "paused"
	}
	if s.Position != 0 {
		out.Position = time.Unix(0, s.Position).UTC().Format(time.RFC3339Nano)
	}
	if d.max {
		out.Speed = 0
	}
	return out
}

// listenControl opens the address of --control: it must be one that only this host
// reaches.
func listenControl(address string) (net.Listener, error) {
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, usagef("--control %q: write an address of this host and a port, such as 127.0.0.1:9465 (port 0 takes a free one)", address)
	}
	if !a.Addr().IsLoopback() {
		return nil, usagef("--control %s: whoever reaches it controls the replay; it listens on 127.0.0.1 or [::1] only", address)
	}
	return net.Listen("tcp", address)
}

// serve answers on l until ctx ends.
func (d *deck) serve(ctx context.Context, l net.Listener) error {
	s := &http.Server{
		Handler: guardHost(l.Addr().String(), d.routes()), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 5 * time.Second,
		WriteTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		// Its complaints are about clients; stderr belongs to the replay.
		ErrorLog: log.New(io.Discard, "", 0),
	}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (d *deck) routes() http.Handler {
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, err error) {
		w.Header().Set("Content-Type", "application/json")
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			_ = json.NewEncoder(w).Encode(map[string]string{"error": err.Error()})
			return
		}
		_ = json.NewEncoder(w).Encode(d.status())
	}
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) { answer(w, nil) })
	post := func(path string, do func(*http.Request) error) {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) { answer(w, do(r)) })
	}
	post("/pause", func(*http.Request) error { d.r.Pause(); return nil })
	post("/resume", func(*http.Request) error { d.r.Resume(); return nil })
	post("/quit", func(*http.Request) error { d.quit(); return nil })
	post("/step", func(r *http.Request) error {
		n := 1
		if s := r.URL.Query().Get("n"); s != "" {
			var err error
			if n, err = strconv.Atoi(s); err != nil || n < 1 || n > 1_000_000 {
				return fmt.Errorf("n=%q: a number of datagrams from 1 to 1000000", s)
			}
		}
		d.r.Step(n)
		return nil
	})
	post("/speed", func(r *http.Request) error {
		x, err := strconv.ParseFloat(r.URL.Query().Get("x"), 64)
		if err != nil {
			return fmt.Errorf("x=%q: a factor from 0.01 to 1000", r.URL.Query().Get("x"))
		}
		return d.r.SetSpeed(x)
	})
	post("/seek", func(r *http.Request) error {
		if where := r.URL.Query().Get("to"); where != "" {
			return d.seek(where)
		}
		return errors.New("to: a time, or +10s or -10s from the present place (+ is written %2B in a URL)")
	})
	return mux
}

// guardHost refuses what a page in a browser of this host could send: a request by
// another name than the address (DNS rebinding), or from another origin.
func guardHost(address string, next http.Handler) http.Handler {
	_, port, _ := net.SplitHostPort(address)
	own := map[string]bool{address: true, "localhost:" + port: true}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		origin := r.Header.Get("Origin")
		switch {
		case !own[r.Host]:
			http.Error(w, "wrong Host: use "+address, http.StatusForbidden)
		case origin != "" && origin != "http://"+r.Host, r.Header.Get("Sec-Fetch-Site") == "cross-site":
			http.Error(w, "another origin", http.StatusForbidden)
		default:
			r.Body = http.MaxBytesReader(w, r.Body, 4<<10)
			next.ServeHTTP(w, r)
		}
	})
}

// The keys of a replay in a terminal.
const keysHelp = "space pause  left/right 1 s  up/down 10 s  +/- speed  s step  b ten steps  q quit"

// keys reads commands from a terminal in raw mode, until it ends or somebody quits.
func (d *deck) keys(r io.Reader) {
	buf := make([]byte, 64)
	for {
		n, err := r.Read(buf)
		for b := buf[:n]; len(b) > 0; {
			b = b[d.key(b):]
		}
		if err != nil {
			return
		}
	}
}

// key obeys the first key in b and returns how many bytes it is. Keys that mean
// nothing, and what cannot be done, are passed over.
func (d *deck) key(b []byte) int {
	if len(b) >= 3 && b[0] == 0x1b && (b[1] == '[' || b[1] == 'O') {
		switch b[2] {
		case 'C':
			_ = d.r.SeekBy(int64(time.Second))
		case 'D':
			_ = d.r.SeekBy(-int64(time.Second))
		case 'A':
			_ = d.r.SeekBy(int64(10 * time.Second))
		case 'B':
			_ = d.r.SeekBy(-int64(10 * time.Second))
		}
		return 3
	}
	switch b[0] {
	case ' ':
		d.r.TogglePause()
	case '+', '=':
		_ = d.r.ScaleSpeed(2)
	case '-':
		_ = d.r.ScaleSpeed(0.5)
	case 's':
		d.r.Step(1)
	case 'b':
		d.r.Step(10)
	case 'q', 3, 4: // ^C and ^D are keys in raw mode
		d.quit()
	}
	return 1
}
