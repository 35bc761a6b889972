// What the pages of all kinds share.

const doc = JSON.parse(document.getElementById("data").textContent);
const body = document.getElementById("body");
const clock = new Clock(doc.start);
let view;

/** bar is the strip with what is shown, and what changes it; tools go in front. */
function bar(resolution, ...tools) {
  const range = el("span", { class: "range", id: "range" }), res = el("span", { class: "res", id: "resolution" });
  const button = (name, title, f, id) => el("button", { type: "button", title, "aria-label": title, id, onclick: f }, name);
  const reset = button("All", "Show everything (0, Esc or double click)", () => view.reset(), "reset");
  const back = button("Back", "Back to the stretch before (Backspace)", () => view.back());
  const box = el("div", { class: "bar" }, ...tools,
    el("span", { class: "seg" }, button("−", "Zoom out (-)", () => view.zoom(2)), button("+", "Zoom in (+)", () => view.zoom(0.5)), back, reset), range, res);
  const show = () => {
    const length = view.to - view.from, step = Math.max(1, 1000 ** Math.floor(Math.log10(length / 1e2) / 3));
    range.textContent = clock.text(view.from, step, true) + " to " + clock.text(view.to, step) + ", " + nanos(length);
    res.textContent = resolution();
    reset.disabled = view.whole; back.disabled = view.before.length === 0;
    document.body.dataset.from = Math.round(view.from); document.body.dataset.to = Math.round(view.to);
  };
  view.watch(show);
  view.watch(() => history.replaceState(null, "", view.whole ? location.pathname : "#" + Math.round(view.from) + "," + Math.round(view.to)));
  show();
  document.addEventListener("keydown", (e) => {
    if (e.target === document.body && view.key(e)) e.preventDefault();
  });
  return box;
}

/** show begins with a view: of everything, or of the stretch that the address names as #FROM,TO in ns. */
function show(v) {
  view = v;
  const [from, to] = location.hash.slice(1).split(",").map(Number);
  if (to > from) view.set(from, to);
}

const HINT = "Drag to zoom, double click for all. Wheel with Ctrl, or after a click; keys + - ← → 0.";

const streamName = (s) => s.source + " > " + s.group;

function damageList(places) {
  if (!places.length) return;
  const box = card("Damage", places.length === 1 ? "one place" : comma(places.length) + " places");
  box.append(el("ul", {}, ...places.map((d) => el("li", {}, d))));
  body.append(box);
}

/** Choice is which streams are drawn, each in a colour of its own; at most seven. */
class Choice {
  constructor(streams, first) {
    this.of = new Map(); // stream to its colour
    for (const s of streams.slice(0, first)) this.of.set(s, this.free());
  }
  free() { return ["c1", "c2", "c3", "c4", "c5", "c6", "c7"].find((k) => ![...this.of.values()].includes(k)); }
  /** box is the field by which a stream is chosen; changed is called behind each change. */
  box(s, name, can, changed) {
    const input = el("input", { type: "checkbox", "aria-label": "Draw " + name, disabled: !can });
    const dot = el("i", { class: "dot" });
    const paint = () => { dot.className = "dot" + (this.of.has(s) ? " k" + this.of.get(s).slice(1) : ""); };
    input.checked = this.of.has(s);
    paint();
    input.addEventListener("change", () => {
      if (!input.checked) this.of.delete(s);
      else if (this.free()) this.of.set(s, this.free());
      else input.checked = false;
      paint();
      changed();
    });
    return el("label", {}, dot, input);
  }
}

/** gather makes columns of cells for a stretch: v(i) are a cell's values, join(x, y) puts two together. */
function gather(cells, a, b, points, v, join) {
  const list = new Columns(widthFor(b - a, points, cells.width), cells.from);
  pieces(cells, [], a, b, (t0, t1, i) => list.piece(t0, t1, (c) => { c.v = v(i); }, (c) => { c.v = join(c.v, v(i)); }));
  return list.list;
}

/** streamCard is the table of streams with a field to find one; text(row) is what is searched. */
function streamCard(title, hint, columns, rows, text, options) {
  const find = el("input", { type: "search", placeholder: "Find a stream", "aria-label": "Find a stream" });
  const box = card(title, hint, find);
  body.append(box);
  const t = table(columns, rows, { label: "streams", ...options });
  t.box.id = "streams";
  box.append(t.box);
  find.addEventListener("input", () => {
    const words = find.value.trim().toLowerCase();
    t.filter((r) => text(r).toLowerCase().includes(words));
  });
}
