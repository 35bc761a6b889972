// Tables that sort by a click on a column's name, and bars of histograms.

/** table shows rows. columns: {name, value(row), text(row), cell(row), left, hot(row), title}; sort is the column
    by which it is sorted at first, downwards where that is a number. */
function table(columns, rows, { sort = null, go = null, label = "" } = {}) {
  const body = el("tbody");
  const heads = columns.map((c, i) => el("th", { class: c.left ? "l" : null, scope: "col", title: c.title },
    c.value ? el("button", { type: "button", onclick: () => order(i, i === by ? !down : !c.left) }, c.name) : c.name));
  let by = -1, down = false, shown = rows;
  const draw = () => body.replaceChildren(...shown.map((r) => {
    const tr = el("tr", go ? { class: "go", tabindex: "0", onclick: () => go(r), onkeydown: (e) => { if (e.key === "Enter") go(r); } } : {});
    tr.append(...columns.map((c) => el("td", { class: [c.left ? "l" : "", c.wrap ? "wrap" : "", c.hot && c.hot(r) ? "hot" : ""].join(" ").trim() || null },
      c.cell ? c.cell(r) : String(c.text ? c.text(r) : c.value(r) ?? "-"))));
    return tr;
  }));
  const order = (i, downwards) => {
    by = i; down = downwards;
    heads.forEach((h, k) => k === i ? h.setAttribute("aria-sort", down ? "descending" : "ascending") : h.removeAttribute("aria-sort"));
    const value = columns[i].value, missing = (v) => v == null || v === "";
    shown = rows.slice().sort((a, b) => {
      const x = value(a), y = value(b);
      if (missing(x) || missing(y)) return missing(x) - missing(y);
      const c = typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : x - y;
      return down ? -c : c;
    });
    draw();
  };
  if (sort != null) order(sort, !columns[sort].left); else draw();
  const all = rows;
  return {
    box: el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label || "table" }, el("table", {}, el("thead", {}, el("tr", {}, ...heads)), body)),
    /** filter shows the rows for which f is true. */
    filter(f) { rows = all.filter(f); shown = rows; if (by >= 0) order(by, down); else draw(); },
  };
}

/** bars is a histogram: classes of {from, to, datagrams}, named by name(class). */
function bars(classes, name) {
  const sum = classes.reduce((s, c) => s + c.datagrams, 0) || 1, most = Math.max(...classes.map((c) => c.datagrams), 1);
  const box = el("div", { class: "bars" });
  for (const c of classes) {
    const bar = el("div");
    bar.style.width = 100 * c.datagrams / most + "%";
    if (c.datagrams === 0) bar.style.minWidth = "0";
    const part = 100 * c.datagrams / sum;
    box.append(el("span", {}, name(c)), el("div", { title: comma(c.datagrams) }, bar), el("span", {}, part >= 0.05 || part === 0 ? trimmed(part, 1) + " %" : comma(c.datagrams)));
  }
  return box;
}
