// The page of a comparison.

function comparisonPage(r) {
  const c = r.cells;
  const cells = new Cells(c.from_ns, c.width_ns, {
    matched: c.matched, only_a: c.only_a, only_b: c.only_b, duplicates: c.duplicates, reordered: c.reordered, changed: c.changed,
    least: c.latency_min_ns, most: c.latency_max_ns, mean: c.latency_mean_ns,
  });
  const curves = r.streams.filter((s) => s.latencies);
  const choice = new Choice(curves, curves.length > 1 ? 3 : 0);
  let redraw = () => {};
  if (cells.n > 0) {
    show(new View(cells.from, cells.to, Math.min(20 * cells.width, cells.to - cells.from)));
    body.append(bar(() => "cells of " + nanos(widthFor(view.to - view.from, 1200, cells.width)) + ", by the time of A"));
    latencyOverTime(r, cells);
    differences(r, cells);
    redraw = latencyCurves(r, choice.of);
  } else {
    body.append(el("section", { class: "card" }, el("p", { class: "empty" }, "Neither holds a datagram to compare.")));
  }
  comparedStreams(r, choice, redraw);
  damageList(r.damage);
}

function latencyOverTime(r, cells) {
  const box = card("Latency over time", HINT);
  body.append(box);
  if (!r.matched) {
    box.append(el("p", { class: "empty" }, "Nothing matched."));
    return;
  }
  const f = cells.fields;
  const join = (x, y) => !x.n ? y : !y.n ? x : { n: x.n + y.n, least: Math.min(x.least, y.least), most: Math.max(x.most, y.most), sum: x.sum + y.sum };
  const spec = {
    label: "The least, the mean and the largest latency over time", height: 270, fromZero: false,
    lines: () => [{ key: "c0", name: "largest", width: 1 }, { key: "c2", name: "smallest", width: 1 }, { key: "c1", name: "mean", width: 1.5 }],
    bands: [{ series: [1, 2], key: "c0", alpha: "26" }],
    data: (a, b, points) => {
      const list = gather(cells, a, b, points, (i) => ({ n: f.matched[i], least: f.least[i], most: f.most[i], sum: f.mean[i] * f.matched[i] }), join);
      const seen = (v) => spec.log && v <= 0 ? null : v;
      return steps(list, (c) => c.v.n ? seen(c.v.most) : null, (c) => c.v.n ? seen(c.v.least) : null, (c) => c.v.n ? seen(c.v.sum / c.v.n) : null);
    },
    value: nanos, ticks: nanosTicks,
  };
  const chart = new TimeChart(box, view, clock, spec);
  chart.box.id = "latency";
  if (r.latency_ns && r.latency_ns.max > 0) {
    box.firstChild.append(el("div", { class: "tools" }, segments("Scale", ["linear", "log"], (i) => { spec.log = i === 1; chart.build(); })));
  }
}

function differences(r, cells) {
  const kinds = [
    ["only_a", "only in A", "lost", r.only_a], ["only_b", "only in B", "c1", r.only_b], ["duplicates", "twice", "c3", r.duplicates_a + r.duplicates_b],
    ["reordered", "reordered", "c4", r.reordered], ["changed", "changed", "c6", r.changed],
  ].filter((k) => k[3] > 0);
  const box = card("Differences over time", kinds.length ? "Datagrams in each column" : "");
  body.append(box);
  if (kinds.length) {
    const chart = new TimeChart(box, view, clock, {
      label: "What differs over time", height: 200,
      lines: () => kinds.map(([, name, key]) => ({ key, name, width: 1.4, fill: "33" })),
      data: (a, b, points) => steps(gather(cells, a, b, points / 2, (i) => kinds.map(([field]) => cells.fields[field][i]), (x, y) => x.map((v, k) => v + y[k])),
        ...kinds.map((k, i) => (c) => c.v[i])),
      value: comma, axis: (v) => v === Math.floor(v) ? comma(v) : "",
    });
    chart.box.id = "differences";
  } else {
    box.append(el("p", { class: "empty" }, "Nothing differs: every datagram is in both, once, in the same order."));
  }
  const rate = card("Matches over time", "Datagrams a second that are in both");
  body.append(rate);
  new TimeChart(rate, view, clock, {
    label: "Rate of matched datagrams over time", height: 160,
    lines: () => [{ key: "c0", name: "matched", width: 1.4, fill: "22" }],
    data: (a, b, points) => steps(gather(cells, a, b, points, (i) => cells.fields.matched[i], (x, y) => x + y), (c) => c.v / (c.t1 - c.t0) * 1e9),
    value: (v) => si(v, "/s"), axis: (v) => si(v, "/s"),
  });
}

/** latencyCurves draws both distributions; what it returns draws them again. */
function latencyCurves(r, chosen) {
  const grid = el("div", { class: "grid" });
  body.append(grid);
  const make = (title, hint, id, field) => {
    const box = card(title, hint);
    grid.append(box);
    const chart = new CurveChart(box, title, () => [{ key: "c0", name: "all", points: r[field] }, ...[...chosen].map(([s, key]) => ({ key, name: s.group, points: s[field] }))]);
    chart.box.id = id;
    return chart;
  };
  const both = [
    make("Latency", "Time in B minus time in A: how many take at most so long", "latencies", "latencies"),
    make("Interval error", "How much the distance to the datagram before differs", "intervals", "interval_errors"),
  ];
  return () => both.forEach((c) => c.build());
}

function comparedStreams(r, choice, changed) {
  const n = (name, key, hot) => ({ name, value: (s) => s[key], text: (s) => comma(s[key]), hot: hot ? (s) => s[key] > 0 : null });
  const time = (name, of, key) => ({ name, value: (s) => s[of] && s[of][key], text: (s) => s[of] ? nanos(s[of][key]) : "-" });
  streamCard("Streams", "Choose up to seven to draw their percentiles", [
    { name: "", cell: (s) => choice.box(s, streamName(s), s.latencies, changed), left: true },
    { name: "Group", left: true, value: (s) => s.group, text: (s) => s.group + (s.mapped ? " = " + s.mapped : "") }, { name: "Source", left: true, value: (s) => s.source },
    n("Matched", "matched"), n("Only A", "only_a", true), n("Only B", "only_b", true), n("Twice A", "duplicates_a", true), n("Twice B", "duplicates_b", true),
    n("Reordered", "reordered", true), n("Changed", "changed", true),
    time("Latency min", "latency_ns", "min"), time("p50", "latency_ns", "p50"), time("p99", "latency_ns", "p99"), time("max", "latency_ns", "max"),
    time("Interval error p99", "interval_error_ns", "p99"), time("max", "interval_error_ns", "max"),
  ], r.streams, (s) => s.group + " " + s.source);
}
