// Cells of traffic over time, and the columns of a chart that are made of them.

// Widths of columns, in ns: multiples of those of the cells, so that no cell is cut.
const WIDTHS = [];
for (let p = 1e3; p <= 1e10; p *= 10) WIDTHS.push(p, 2 * p);
WIDTHS.push(60e9, 120e9, 600e9, 1200e9, 3600e9, 7200e9, 43200e9, 86400e9, 864000e9);

/** Cells are a row of cells of equal width, from a time on; fields are arrays by name. */
class Cells {
  constructor(from, width, fields) {
    this.from = from; this.width = width; this.fields = fields;
    this.n = Object.values(fields)[0].length;
  }
  get to() { return this.from + this.n * this.width; }
  /** sum of a field from a to b, a part of a cell by its part. */
  sum(name, a, b) {
    const list = this.fields[name], w = this.width;
    a = Math.max(a, this.from); b = Math.min(b, this.to);
    if (b <= a) return 0;
    let i = Math.floor((a - this.from) / w), s = 0;
    for (; i < this.n && this.from + i * w < b; i++) {
      const t = this.from + i * w;
      s += list[i] * (Math.min(b, t + w) - Math.max(a, t)) / w;
    }
    return s;
  }
}

/** pieces lists what is known of the time from a to b, at the finest: cells, and in
    their place the milliseconds of the seconds that are there in full. What is left of a
    cell beside such a second is a piece of its own. each(t0, t1, cell, second, ms). */
function pieces(cells, seconds, a, b, each) {
  const w = cells.width;
  const first = Math.max(0, Math.floor((a - cells.from) / w)), end = Math.min(cells.n, Math.ceil((b - cells.from) / w));
  let k = 0;
  for (let i = first; i < end; i++) {
    const c0 = cells.from + i * w, c1 = c0 + w;
    while (k < seconds.length && seconds[k].from + 1e9 <= c0) k++;
    let t = c0;
    for (let j = k; j < seconds.length && seconds[j].from < c1; j++) {
      const s = seconds[j], s0 = Math.max(s.from, c0), s1 = Math.min(s.from + 1e9, c1);
      if (s0 > t) each(t, s0, i, null, 0);
      for (let ms = Math.round((s0 - s.from) / 1e6); ms < Math.round((s1 - s.from) / 1e6); ms++) {
        each(s.from + ms * 1e6, s.from + (ms + 1) * 1e6, i, s, ms);
      }
      t = s1;
    }
    if (t < c1) each(t, c1, i, null, 0);
  }
}

/** widthFor is the width of columns of which at most n fill a time of ns. */
function widthFor(ns, n, least) {
  for (const w of WIDTHS) if (w >= least && ns / w <= n) return w;
  return WIDTHS[WIDTHS.length - 1];
}

/** narrower is the width before one of WIDTHS. */
const narrower = (w) => WIDTHS[Math.max(0, WIDTHS.indexOf(w) - 1)];

/** columns gathers pieces into columns of one width, counted from an origin; pieces that are
    wider stand for themselves. start makes a column of the first piece, add puts one more into it. */
class Columns {
  constructor(width, origin) { this.width = width; this.origin = origin; this.list = []; this.key = null; }
  piece(t0, t1, start, add) {
    const key = t1 - t0 >= this.width ? null : Math.floor((t0 - this.origin) / this.width);
    const last = this.list[this.list.length - 1];
    if (key !== null && key === this.key && last.t1 === t0) { last.t1 = t1; add(last); }
    else { const c = { t0, t1 }; start(c); this.list.push(c); }
    this.key = key;
  }
}

/** rateColumns are columns of a field of all together, from the cells and, where that is finer, the seconds: n in each,
    and the least and the highest rate in a second of a part of it, of a half or a fifth. Of a cell beside whose seconds
    something is left, that is spread evenly. */
function rateColumns(cells, seconds, field, a, b, points) {
  const finest = seconds.length ? Math.min(1e6, cells.width) : cells.width, width = widthFor(b - a, points, finest);
  const fine = new Columns(Math.max(finest, narrower(width)), cells.from), all = new Columns(width, cells.from), list = cells.fields[field];
  const inSeconds = new Map(); // of a cell: what its seconds hold, and how long they are in it
  const ofSeconds = (i) => {
    if (!inSeconds.has(i)) {
      const c0 = cells.from + i * cells.width, c1 = c0 + cells.width;
      let n = 0, time = 0;
      for (const s of seconds) {
        const s0 = Math.max(s.from, c0), s1 = Math.min(s.from + 1e9, c1);
        if (s1 <= s0) continue;
        time += s1 - s0;
        for (let ms = Math.round((s0 - s.from) / 1e6); ms < Math.round((s1 - s.from) / 1e6); ms++) n += s[field][ms];
      }
      inSeconds.set(i, [n, time]);
    }
    return inSeconds.get(i);
  };
  // Columns as wide as cells, or wider, have it all in these.
  pieces(cells, width < cells.width ? seconds : [], a, b, (t0, t1, i, s, ms) => {
    let n;
    if (s) n = s[field][ms];
    else if (t1 - t0 === cells.width) n = list[i];
    else { const [m, time] = ofSeconds(i); n = Math.max(0, list[i] - m) * (t1 - t0) / (cells.width - time); }
    fine.piece(t0, t1, (c) => { c.n = n; }, (c) => { c.n += n; });
  });
  for (const { t0, t1, n } of fine.list) {
    const rate = n / (t1 - t0) * 1e9;
    all.piece(t0, t1, (c) => { c.n = n; c.least = c.most = rate; }, (c) => { c.n += n; c.least = Math.min(c.least, rate); c.most = Math.max(c.most, rate); });
  }
  return all.list;
}

/** steps are the x values of columns for a stepped line: each where it begins, and the end
    of the last one; f gives the y values. A hole between columns is a break. */
function steps(columns, ...f) {
  const xs = [], ys = f.map(() => []);
  columns.forEach((c, i) => {
    const before = columns[i - 1];
    if (before && before.t1 < c.t0) { xs.push(before.t1 / 1e9); ys.forEach((y) => y.push(null)); }
    xs.push(c.t0 / 1e9);
    f.forEach((g, k) => ys[k].push(g(c)));
  });
  const last = columns[columns.length - 1];
  if (last) { xs.push(last.t1 / 1e9); f.forEach((g, k) => ys[k].push(g(last))); }
  return [xs, ...ys];
}
