// Charts: over time, which all show the same stretch, and of distributions.

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const colour = (key, alpha = "") => () => css("--" + key) + alpha; // alpha as two hexadecimal digits

/** el makes an element with text or children; attributes never come from files. */
function el(tag, attributes = {}, ...children) {
  const e = document.createElement(tag);
  for (const [k, v] of Object.entries(attributes)) {
    if (k.startsWith("on")) e.addEventListener(k.slice(2), v);
    else if (v !== false && v != null) e.setAttribute(k, v === true ? "" : v);
  }
  e.append(...children.filter((c) => c != null));
  return e;
}

/** card makes a part of the page with its head; tools stand at the right of that. */
function card(title, hint, ...tools) {
  const head = el("div", { class: "cardhead" }, el("h2", {}, title), hint ? el("span", { class: "hint" }, hint) : null,
    tools.length ? el("div", { class: "tools" }, ...tools) : null);
  return el("section", { class: "card" }, head);
}

/** segments is a choice of one of several; f is told which. */
function segments(label, names, f) {
  const buttons = names.map((n, i) => el("button", { type: "button", "aria-pressed": String(i === 0), onclick: () => choose(i) }, n));
  const choose = (i) => { buttons.forEach((b, k) => b.setAttribute("aria-pressed", String(i === k))); f(i); };
  return el("span", { class: "seg", role: "group", "aria-label": label }, ...buttons);
}

const all = []; // charts, for a change of colours

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => all.forEach((c) => c.plot && c.plot.redraw(false, true)));

const FONT = "12px system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif";

function axis(more) {
  return { stroke: colour("soft"), font: FONT, grid: { stroke: colour("grid"), width: 1 }, ticks: { stroke: colour("line"), width: 1, size: 4 }, gap: 6, ...more };
}

/** valueRange is a range of y values from 0 on, or of whole powers of ten. */
function valueRange(log, fromZero = true) {
  return (u, least, most) => {
    if (least == null || most == null) return log ? [1, 10] : [0, 1];
    if (log) {
      const to = Math.ceil(Math.log10(most) + 1e-9);
      return [10 ** Math.max(Math.floor(Math.log10(least) + 1e-9), to - 9), 10 ** to];
    }
    if (fromZero && least >= 0) return [0, most > 0 ? most * 1.08 : 1];
    const pad = (most - least || Math.abs(most) || 1) * 0.08;
    return [least - pad, most + pad];
  };
}

/** powersOfTen is a logarithmic axis with ticks at powers of ten, all or every second and so on. */
const powersOfTen = {
  splits: (u, i, least, most) => {
    const from = Math.round(Math.log10(least)), to = Math.round(Math.log10(most)), list = [];
    const step = Math.ceil((to - from) * 20 / Math.max(u.bbox.height / devicePixelRatio, 1));
    for (let p = from; p <= to; p += Math.max(step, 1)) list.push(10 ** p);
    return list;
  },
  filter: (u, list) => list,
};

class Chart {
  constructor(parent, height, label) {
    this.height = height;
    this.box = el("div", { class: "chart", tabindex: "0", role: "img", "aria-label": label });
    this.keys = el("div", { class: "keys" });
    parent.append(this.box, this.keys);
    new ResizeObserver(() => {
      const width = this.box.clientWidth;
      if (this.plot && width > 0 && width !== this.plot.width) this.resized(width);
    }).observe(this.box);
    all.push(this);
  }
  resized(width) { this.plot.setSize({ width, height: this.height }); }
  make(options, data) {
    if (this.plot) this.plot.destroy();
    this.plot = new uPlot({ width: Math.max(this.box.clientWidth, 100), height: this.height, legend: { show: false }, ...options }, data, this.box);
  }
  /** legend shows what lines there are, with the values at a place of the data. */
  legend(items, lead) {
    this.keys.replaceChildren(...(lead ? [el("b", {}, lead)] : []), ...items.map(([key, name, value]) =>
      el("span", {}, key ? el("i", { class: "k" + key.replace(/^c/, "") }) : "", name, value != null ? ": " : "", value != null ? el("b", {}, value) : "")));
  }
}

/** TimeChart shows lines over the stretch of a view.
    spec: height, label, lines() -> [{key, name, width, fill, hidden}], data(from, to, points) -> uPlot data,
    value(v), axis(v) or ticks(list), log, bands. */
class TimeChart extends Chart {
  constructor(parent, view, clock, spec) {
    super(parent, spec.height || 240, spec.label);
    this.view = view; this.clock = clock; this.spec = spec;
    view.watch(() => this.update());
    this.box.addEventListener("keydown", (e) => { if (view.key(e)) e.preventDefault(); });
    this.build();
  }
  build() {
    const { view, spec } = this;
    this.lines = spec.lines();
    this.make({
      scales: { x: { time: false, range: () => [view.from / 1e9, view.to / 1e9] }, y: spec.scale ? spec.scale() : { distr: spec.log ? 3 : 1, range: valueRange(spec.log, spec.fromZero) } },
      axes: [
        axis({ splits: (u, i, a, b) => this.times(u, a, b), values: (u, t) => this.labels(t), side: spec.timeOnTop ? 0 : 2, size: 34 }),
        axis(spec.yAxis ? spec.yAxis() : { size: 78, values: (u, v) => spec.ticks && !spec.log ? spec.ticks(v) : v.map(spec.axis || spec.value), ...(spec.log ? powersOfTen : {}) }),
      ],
      series: [{}, ...this.lines.map((l) => ({
        stroke: colour(l.key, l.faint ? "66" : ""), width: l.width || 1.3, fill: l.fill ? colour(l.key, l.fill) : undefined,
        paths: uPlot.paths.stepped({ align: 1 }), points: { show: false }, spanGaps: false,
      }))],
      bands: (spec.bands || []).map((b) => ({ series: b.series, fill: colour(b.key, b.alpha || "38") })),
      cursor: {
        sync: { key: "time", filters: { pub: (type) => type === "mousemove" || type === "mouseleave" } },
        drag: { x: true, y: false, setScale: false },
        bind: { dblclick: () => () => { view.reset(); return null; } },
        points: { show: false }, y: false,
        dataIdx: (u, s, at, x) => at > 0 && u.data[0][at] > x ? at - 1 : at,
      },
      hooks: {
        setSelect: [(u) => this.selected(u)], setCursor: [(u) => this.cursor(u)],
        draw: spec.draw ? [(u) => spec.draw(u)] : [],
        ready: [(u) => {
          u.over.addEventListener("wheel", (e) => this.wheel(u, e), { passive: false });
          u.over.addEventListener("mousedown", () => this.box.focus({ preventScroll: true }));
        }],
      },
    }, this.data());
    this.cursor(this.plot);
  }
  data() {
    const points = Math.max(100, Math.min(1400, this.box.clientWidth - 80));
    return this.spec.data(this.view.from, this.view.to, points);
  }
  update() {
    this.plot.setData(this.data());
    this.cursor(this.plot);
  }
  selected(u) {
    const { left, width } = u.select;
    if (width < 3) return;
    const [a, b] = [u.posToVal(left, "x") * 1e9, u.posToVal(left + width, "x") * 1e9];
    u.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
    this.view.set(a, b);
  }
  wheel(u, e) {
    // A plain wheel scrolls the page, until the chart was clicked or reached by the keyboard.
    if (!e.ctrlKey && !e.metaKey && document.activeElement !== this.box) return;
    e.preventDefault();
    if (Math.abs(e.deltaX) > Math.abs(e.deltaY)) this.view.pan(Math.sign(e.deltaX) * 0.08, false);
    else this.view.zoom(e.deltaY > 0 ? 1.25 : 0.8, u.posToVal(e.offsetX, "x") * 1e9, false);
  }
  cursor(u) {
    if (!u || this.plot !== u) return;
    const at = u.cursor.left >= 0 ? u.cursor.idx : null;
    if (this.spec.keys) { this.legend(...this.spec.keys(u, at)); return; }
    let lead = null;
    if (at != null && u.data[0].length) {
      const t0 = u.data[0][at] * 1e9, t1 = (u.data[0][at + 1] ?? u.data[0][at]) * 1e9;
      lead = this.clock.text(t0, Math.max(1, t1 - t0)) + (t1 > t0 ? " for " + nanos(t1 - t0) : "");
    }
    this.legend(this.lines.filter((l) => !l.hidden).map((l) => {
      const i = this.lines.indexOf(l) + 1;
      return [l.key, l.name, at != null ? this.spec.value(u.data[i][at]) : null];
    }), lead);
  }
  /** times are where the axis has its ticks: round times of the day. */
  times(u, a, b) {
    const room = u.bbox.width / devicePixelRatio / 110;
    const raw = (b - a) / Math.max(room, 2);
    const steps = [];
    for (let p = 1e-9; p < 1; p *= 10) steps.push(p, 2 * p, 5 * p);
    steps.push(1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800, 2592000, 31536000, 315360000, 3.2e9);
    this.step = steps.find((s) => s >= raw) || raw;
    const into = this.clock.intoDay / 1e9, list = [];
    for (let k = Math.ceil((a + into) / this.step - 1e-6); list.length < 100; k++) {
      const t = k * this.step - into;
      if (t > b) break;
      list.push(t);
    }
    return list;
  }
  labels(times) {
    return times.map((t) => this.step >= 86400 ? this.clock.dayOf(t * 1e9 + 1) : this.clock.text(t * 1e9, this.step * 1e9));
  }
}

/** CurveChart shows distributions by the number of nines. curves() -> [{key, name, points}]. */
class CurveChart extends Chart {
  constructor(parent, label, curves) {
    super(parent, 270, label);
    this.curves = curves;
    this.build();
  }
  build() {
    const list = this.curves().filter((c) => c.points && c.points.length);
    const xs = [...new Set(list.flatMap((c) => c.points.map((p) => p[0])))].sort((a, b) => a - b);
    const ys = list.map((c) => { // straight lines between the points: each curve has its own last one
      const own = new Map(c.points);
      return xs.map((x) => own.get(x));
    });
    this.log = list.every((c) => c.points.every((p) => p[1] > 0 || p[0] === 0));
    if (this.log) ys.forEach((y) => y.forEach((v, i) => { if (v <= 0) y[i] = undefined; }));
    const percent = (n) => trimmed(100 * (1 - 10 ** -n), Math.max(0, Math.ceil(n) - 2 + (n % 1 ? 1 : 0)));
    const nines = [0, Math.log10(2), 1, 2, 3, 4, 5, 6, 7, 8, 9, 10];
    const most = xs.length ? Math.max(xs[xs.length - 1], 0.31) : 1;
    this.make({
      scales: { x: { time: false, range: () => [0, most] }, y: { distr: this.log ? 3 : 1, range: valueRange(this.log) } },
      axes: [
        axis({ splits: (u) => { // as many as do not touch
          let last = -1;
          return nines.filter((n) => n <= most && (n === 0 || (n - last) * u.bbox.width / devicePixelRatio / most > 24 + 7 * Math.max(n, 2)) && ((last = n), true));
        }, values: (u, v) => v.map((n) => n === 0 ? "min" : percent(n) + " %"), size: 34 }),
        axis({ size: 78, values: (u, v) => this.log ? v.map(nanos) : nanosTicks(v), ...(this.log ? powersOfTen : {}) }),
      ],
      series: [{}, ...list.map((c, i) => ({ stroke: colour(c.key), width: i === 0 ? 2 : 1.3, points: { show: false }, spanGaps: true }))],
      cursor: { drag: { x: false, y: false }, points: { show: false }, y: false },
      hooks: { setCursor: [(u) => this.cursor(u, list, percent)] },
    }, [xs, ...ys]);
    this.cursor(this.plot, list, percent);
  }
  cursor(u, list, percent) {
    const at = u && u.cursor.left >= 0 ? u.cursor.idx : null;
    const valueAt = (c) => { // the curve is known at its own points; the one at or above this
      const p = c.points.find((q) => q[0] >= u.data[0][at] - 1e-9);
      return p ? nanos(p[1]) : "-";
    };
    this.legend(list.map((c) => [c.key, c.name, at != null ? valueAt(c) : nanos(c.points[c.points.length - 1][1]) + " at most"]),
      at != null ? percent(u.data[0][at]) + " % take at most" : null);
  }
}
