// The page of a replay.

function replayPage(r) {
  const c = r.cells;
  const cells = new Cells(c.from_ns, c.width_ns, { due: c.due, sent: c.sent, bytes: c.bytes, mean: c.lateness_mean_ns, max: c.lateness_max_ns });
  const curves = r.destinations.filter((d) => d.lateness);
  const choice = new Choice(curves, curves.length > 1 ? 3 : 0);
  let redraw = () => {};
  if (cells.n > 0) {
    show(new View(cells.from, cells.to, Math.min(20 * cells.width, cells.to - cells.from)));
    body.append(bar(() => "cells of " + nanos(widthFor(view.to - view.from, 1200, cells.width))));
    askedAndSent(r, cells);
    if (r.paced) {
      latenessOverTime(cells);
      redraw = latenessCurves(r, choice.of);
    }
  } else {
    body.append(el("section", { class: "card" }, el("p", { class: "empty" }, "Not a single datagram was sent.")));
  }
  destinations(r, choice, redraw);
  damageList(r.damage);
}

function askedAndSent(r, cells) {
  const f = cells.fields, rate = (n, c) => n / (c.t1 - c.t0) * 1e9;
  const box = card("Rate asked for and rate sent", HINT);
  body.append(box);
  const lines = [{ key: "c1", name: "asked for: due in the cell", width: 1.3 }, { key: "c0", name: "sent", width: 1.3 }];
  if (!r.paced) lines.shift();
  const chart = new TimeChart(box, view, clock, {
    label: "The rate that was asked for and the rate that was sent, over time", height: 260,
    lines: () => lines,
    data: (a, b, points) => {
      const list = gather(cells, a, b, points, (i) => [f.due[i], f.sent[i]], (x, y) => [x[0] + y[0], x[1] + y[1]]);
      return steps(list, ...(r.paced ? [(c) => rate(c.v[0], c)] : []), (c) => rate(c.v[1], c));
    },
    value: (v) => si(v, "/s"), axis: (v) => si(v, "/s"),
  });
  chart.box.id = "rate";
  const bits = card("Bit rate sent", "Payload");
  body.append(bits);
  new TimeChart(bits, view, clock, {
    label: "The bit rate that was sent over time", height: 140, lines: () => [{ key: "c2", name: "sent", width: 1.3, fill: "22" }],
    data: (a, b, points) => steps(gather(cells, a, b, points, (i) => f.bytes[i], (x, y) => x + y), (c) => 8 * rate(c.v, c)),
    value: (v) => si(v, "bit/s"), axis: (v) => si(v, "bit/s"),
  });
}

function latenessOverTime(cells) {
  const f = cells.fields;
  const spec = {
    label: "The largest and the mean lateness over time", height: 250, log: true,
    lines: () => [{ key: "c3", name: "largest", width: 1.2, fill: "1c" }, { key: "c1", name: "mean", width: 1.4 }],
    data: (a, b, points) => {
      const list = gather(cells, a, b, points, (i) => ({ n: f.sent[i], sum: f.sent[i] * f.mean[i], max: f.max[i] }), (x, y) => ({ n: x.n + y.n, sum: x.sum + y.sum, max: Math.max(x.max, y.max) }));
      const seen = (v) => spec.log && v <= 0 ? null : v;
      return steps(list, (c) => c.v.n ? seen(c.v.max) : null, (c) => c.v.n ? seen(c.v.sum / c.v.n) : null);
    },
    value: nanos, ticks: nanosTicks,
  };
  const box = card("Lateness over time", "Time at which datagrams had left minus time at which they were due", segments("Scale", ["log", "linear"], (i) => { spec.log = i === 0; chart.build(); }));
  body.append(box);
  const chart = new TimeChart(box, view, clock, spec);
  chart.box.id = "lateness";
}

/** latenessCurves draws both distributions; what it returns draws them again. */
function latenessCurves(r, chosen) {
  const grid = el("div", { class: "grid" });
  body.append(grid);
  const make = (title, hint, id, curves) => {
    const box = card(title, hint);
    grid.append(box);
    const chart = new CurveChart(box, title, curves);
    chart.box.id = id;
    return chart;
  };
  const late = make("Lateness", "How many left at most so late", "latenesses",
    () => [{ key: "c0", name: "all", points: r.lateness }, ...[...chosen].map(([d, key]) => ({ key, name: d.group, points: d.lateness }))]);
  make("Interval error", "How much the distance to the datagram before was another than due", "intervals", () => [{ key: "c0", name: "all", points: r.interval_errors }]);
  return () => late.build();
}

function destinations(r, choice, changed) {
  const n = (name, key, hot) => ({ name, value: (d) => d[key], text: (d) => comma(d[key]), hot: hot ? (d) => d[key] > 0 : null });
  const time = (name, key) => ({ name, value: (d) => d[key], text: (d) => nanos(d[key]) });
  streamCard("Destinations", r.paced ? "Choose up to seven to draw their lateness" : "", [
    { name: "", cell: (d) => choice.box(d, d.group, d.lateness, changed), left: true },
    { name: "Goes to", left: true, value: (d) => d.group }, { name: "Via", left: true, value: (d) => d.interface },
    n("Datagrams", "datagrams"), { name: "Payload", value: (d) => d.bytes, text: (d) => si(d.bytes, "B") },
    n("Refused", "send_errors", true), n("Dropped as late", "dropped_late", true),
    ...(r.paced ? [time("Lateness p50", "lateness_p50_ns"), time("p99", "lateness_p99_ns"), time("max", "lateness_max_ns"), time("Interval error p99", "interval_error_p99_ns")] : []),
  ], r.destinations, (d) => d.group + " " + d.interface);
}
