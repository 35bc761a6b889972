// The page of a recording.

function recordingPage(r) {
  const cells = new Cells(r.rate.from_ns, r.rate.width_ns, {
    datagrams: r.rate.datagrams, bytes: r.rate.bytes, pauses: r.rate.pauses_ns,
    p0: r.rate.peaks[0], p1: r.rate.peaks[1], p2: r.rate.peaks[2], b0: r.rate.peak_bytes[0], b1: r.rate.peak_bytes[1], b2: r.rate.peak_bytes[2],
  });
  const seconds = r.seconds.map((s) => ({ from: s.from_ns, datagrams: s.datagrams, bytes: s.bytes }));
  if (r.datagrams > 0) {
    const finest = seconds.length ? Math.min(1e6, cells.width) : cells.width;
    show(new View(cells.from, cells.to, Math.min(20 * finest, cells.to - cells.from)));
    timeCharts(r, cells, seconds);
  } else {
    body.append(el("section", { class: "card" }, el("p", { class: "empty" }, "There is not a single datagram in what was read.")));
  }
  damageList(r.damage);
}

function timeCharts(r, cells, seconds) {
  let bits = false; // bit/s instead of datagrams a second
  const unit = () => bits ? "bit/s" : "/s";
  const amount = () => bits ? "bytes" : "datagrams", factor = () => bits ? 8 : 1;
  const streams = r.streams.filter((s) => s.rate);
  const lines = new Map(streams.map((s) => [s, new Cells(s.rate.from_ns, s.rate.width_ns, { datagrams: s.rate.datagrams, bytes: s.rate.bytes })]));
  const choice = new Choice(streams, streams.length > 1 ? 3 : 0), chosen = choice.of;

  const resolution = () => {
    const points = 1200, length = view.to - view.from;
    const width = widthFor(length, points, cells.width);
    let text = "cells of " + nanos(Math.max(width, cells.width));
    const there = seconds.filter((s) => s.from < view.to && s.from + 1e9 > view.from).length;
    if (there && length / 1e6 < 1e5 && widthFor(length, points, 1e6) < cells.width) text += ", " + (there === 1 ? "one second" : comma(there) + " seconds") + " by the " + nanos(widthFor(length, points, 1e6));
    return text;
  };
  const charts = [];
  const units = segments("Unit", ["datagrams/s", "bit/s"], (i) => { bits = i === 1; charts.forEach((c) => c.build()); });
  body.append(bar(resolution, units));

  const rate = card("Rate over time", HINT, segments("Scale", ["linear", "log"], (i) => { spec.log = i === 1; rateChart.build(); }));
  body.append(rate);
  const seen = (v) => spec.log && v <= 0 ? null : v;
  const spec = {
    label: "Rate over time of all streams together and of those that are chosen", height: 260,
    lines: () => [
      { key: "c0", name: "highest cell", width: 0.6, faint: true, hidden: true }, { key: "c0", name: "lowest cell", width: 0.6, faint: true, hidden: true },
      { key: "c0", name: streams.length > 1 ? "all streams" : "all", width: 1.5 },
      ...[...chosen].map(([s, key]) => ({ key, name: streamName(s), width: 1.2 })),
    ],
    bands: [{ series: [1, 2], key: "c0" }],
    data: (a, b, points) => {
      const cols = rateColumns(cells, seconds, amount(), a, b, points).map((c) => ({ ...c, n: factor() * c.n, least: factor() * c.least, most: factor() * c.most }));
      return steps(cols, (c) => seen(c.most), (c) => seen(c.least), (c) => seen(c.n / (c.t1 - c.t0) * 1e9),
        ...[...chosen.keys()].map((s) => (c) => seen(factor() * lines.get(s).sum(amount(), c.t0, c.t1) / (c.t1 - c.t0) * 1e9)));
    },
    value: (v) => si(v, unit()), axis: (v) => si(v, unit()),
  };
  const rateChart = new TimeChart(rate, view, clock, spec);
  rateChart.box.id = "rate";
  charts.push(rateChart);

  bursts(r, cells, seconds, charts, () => bits, unit);
  lanes(r);
  const curves = distributions(r, cells, chosen);
  streamTable(r, streams, choice, () => { rateChart.build(); curves.build(); });
  lossTables(r);
}

/** bursts: the fullest windows over time, and in a table. */
function bursts(r, cells, seconds, charts, bits, unit) {
  const scale = segments("Scale", ["log", "linear"], (i) => { spec.log = i === 0; chart.build(); });
  const box = card("Bursts", "The fullest 1, 10 and 100 ms that ended in each cell, wherever they began; where it is shown by the millisecond, whole ones.", scale);
  body.append(box);
  const names = r.windows_ns.map((ns) => "fullest " + nanos(ns)), keys = ["c3", "c1", "c2"];
  const width = [1.2, 1.3, 1.6];
  // What came in windows of whole milliseconds that end with one of a second.
  const wholeMilliseconds = (second, ms) => {
    const field = bits() ? "bytes" : "datagrams", sums = second.sums ||= {};
    if (!sums[field]) {
      sums[field] = [0];
      for (const n of second[field]) sums[field].push(sums[field][sums[field].length - 1] + n);
    }
    return r.windows_ns.map((ns) => (bits() ? 8 : 1) * (sums[field][ms + 1] - sums[field][Math.max(0, ms + 1 - ns / 1e6)]));
  };
  const spec = {
    label: "The fullest 1, 10 and 100 ms over time, as rates", log: true, height: 240,
    lines: () => names.map((name, i) => ({ key: keys[i], name, width: width[i], fill: i === 2 ? "22" : undefined })),
    data: (a, b, points) => {
      const width = widthFor(b - a, points, seconds.length ? Math.min(1e6, cells.width) : cells.width), list = new Columns(width, cells.from);
      pieces(cells, width < cells.width ? seconds : [], a, b, (t0, t1, i, second, ms) => {
        const v = second ? wholeMilliseconds(second, ms) : r.windows_ns.map((ns, w) => bits() ? 8 * cells.fields["b" + w][i] : cells.fields["p" + w][i]);
        list.piece(t0, t1, (c) => { c.v = v; }, (c) => { c.v = c.v.map((x, w) => Math.max(x, v[w])); });
      });
      const columns = list.list;
      return steps(columns, ...r.windows_ns.map((ns, w) => (c) => c.v[w] > 0 || !spec.log ? c.v[w] / ns * 1e9 : null));
    },
    value: (v) => si(v, unit()), axis: (v) => si(v, unit()),
  };
  const chart = new TimeChart(box, view, clock, spec);
  chart.box.id = "bursts-over-time";
  charts.push(chart);
  if (r.bursts.length === 0) return;
  box.append(el("h3", {}, "The worst seconds of the clock: choose one to look at it"));
  const at = (w) => ({ name: nanos(r.windows_ns[w]), title: "Datagrams in the fullest " + nanos(r.windows_ns[w]), value: (b) => b.datagrams[w], text: (b) => comma(b.datagrams[w]) });
  const asRate = (w) => ({ name: "as a rate", value: (b) => b.datagrams[w], text: (b) => si(b.datagrams[w] / r.windows_ns[w] * 1e9, "/s") });
  const asBits = (w) => ({ name: "payload", value: (b) => b.bytes[w], text: (b) => si(8 * b.bytes[w] / r.windows_ns[w] * 1e9, "bit/s") });
  const t = table([
    { name: "Begins (UTC)", left: true, value: (b) => b.at_ns[0], text: (b) => clock.text(b.at_ns[0], 1e3, true) },
    at(0), asRate(0), asBits(0), at(1), asRate(1), at(2), asRate(2),
  ], r.bursts, { sort: 1, label: "bursts", go: (b) => view.set(b.at_ns[0] - 20e6, b.at_ns[0] + 30e6) });
  t.box.id = "bursts";
  t.box.style.maxHeight = "250px";
  box.append(t.box);
}

/** lanes: what is missing, by stream, and what the recording says of losses and events. */
function lanes(r) {
  const list = [];
  for (const l of r.losses) {
    list.push({ label: "recorder, " + l.interface, from: view.full[0], to: view.full[1],
      marks: l.marks.map(([from, to, n]) => ({ from, to, key: "noted", text: comma(n) + " lost by the recorder, told in these " + nanos(to - from) })) });
  }
  if (r.events.length) {
    list.push({ label: "events", from: view.full[0], to: view.full[1],
      marks: r.events.map((e) => ({ from: e.at_ns, to: e.at_ns, key: "event", text: e.kind + (e.interface ? " on " + e.interface : "") + ": " + e.text })) });
  }
  const labels = new Map();
  for (const l of r.lanes) labels.set(l.label, (labels.get(l.label) || 0) + 1);
  for (const l of r.lanes) {
    list.push({ label: labels.get(l.label) > 1 ? l.label + " " + l.source : l.label, name: l.source + " > " + l.label, from: l.from_ns, to: l.to_ns, marks: l.marks.map(([from, to, count, noted, gaps]) => ({
      from, to, key: noted >= count && count > 0 ? "noted" : "lost",
      text: comma(count) + " missing" + (gaps > 1 ? " in " + comma(gaps) + " gaps" : "") + (noted ? ", of which " + comma(noted) + " lost by the recorder at most" : "") + ", within " + nanos(to - from),
    })) });
  }
  const MOST = 24;
  const box = card("Gaps over time", list.length ? "A lane for each numbering, those that miss the most first" : "");
  body.append(box);
  if (!list.length) {
    box.append(el("p", { class: "empty" }, "No stream has numbers that are recognised, and the recording tells of no loss. castdeck gaps --seq says where numbers stand."));
    return;
  }
  let chart = laneChart(box, view, clock, list.slice(0, MOST), "Gaps over time by stream");
  chart.box.id = "lanes";
  if (list.length > MOST) {
    const more = el("button", { type: "button", onclick: () => {
      more.remove();
      chart.box.remove(); chart.keys.remove();
      chart = laneChart(box, view, clock, list, "Gaps over time by stream");
      chart.box.id = "lanes";
    } }, "Show all " + comma(list.length) + " lanes");
    box.firstChild.append(el("div", { class: "tools" }, more));
  }
}

/** distributions: times between datagrams, and sizes. */
function distributions(r, cells, chosen) {
  const grid = el("div", { class: "grid" });
  body.append(grid);
  const arrivals = card("Times between datagrams", "How many take at most so long");
  grid.append(arrivals);
  const curves = new CurveChart(arrivals, "Percentiles of the times between datagrams",
    () => [{ key: "c0", name: "all", points: r.arrivals }, ...[...chosen].map(([s, key]) => ({ key, name: s.group, points: s.arrivals }))]);
  curves.box.id = "arrivals";
  const pauses = card("Longest pause over time", "Between two datagrams of any stream");
  grid.append(pauses);
  new TimeChart(pauses, view, clock, {
    label: "The longest time between two datagrams over time", log: true, height: 270,
    lines: () => [{ key: "c4", name: "longest pause", width: 1.2, fill: "22" }],
    data: (a, b, points) => steps(gather(cells, a, b, points / 2, (i) => cells.fields.pauses[i], Math.max), (c) => c.v > 0 ? c.v : null),
    value: nanos, ticks: nanosTicks,
  });
  const times = card("Times between datagrams, by class"), sizes = card("Sizes of payload, bytes");
  times.append(bars(r.arrival_histogram, (c) => "below " + nanos(c.to + 1)));
  sizes.append(bars(r.size_histogram, (c) => c.from === c.to ? comma(c.from) : comma(c.from) + " to " + comma(c.to)));
  grid.append(times, sizes);
  return curves;
}

function streamTable(r, streams, choice, changed) {
  const span = (s) => s.to_ns - s.from_ns;
  streamCard("Streams", streams.length > 1 ? "Choose up to seven to draw" : "", [
    { name: "", cell: (s) => choice.box(s, streamName(s), s.rate, changed), left: true },
    { name: "Group", left: true, value: (s) => s.group }, { name: "Source", left: true, value: (s) => s.source }, { name: "Interface", left: true, value: (s) => s.interface },
    { name: "Datagrams", value: (s) => s.datagrams, text: (s) => comma(s.datagrams) },
    { name: "Missing", value: (s) => s.missing, text: (s) => comma(s.missing), hot: (s) => s.missing > 0 },
    { name: "Payload", value: (s) => s.bytes, text: (s) => si(s.bytes, "B") },
    { name: "Rate", value: (s) => span(s) > 0 ? s.datagrams / span(s) : null, text: (s) => span(s) > 0 ? si(s.datagrams / span(s) * 1e9, "/s") : "-" },
    { name: "Bit rate", value: (s) => span(s) > 0 ? s.bytes / span(s) : null, text: (s) => span(s) > 0 ? si(8 * s.bytes / span(s) * 1e9, "bit/s") : "-" },
    ...r.windows_ns.map((ns, w) => ({ name: "In " + nanos(ns), title: "Datagrams in the fullest " + nanos(ns), value: (s) => s.bursts[w], text: (s) => comma(s.bursts[w]) })),
    { name: "Between, p50", value: (s) => s.interarrival_p50_ns, text: (s) => nanos(s.interarrival_p50_ns) },
    { name: "p99", value: (s) => s.interarrival_p99_ns, text: (s) => nanos(s.interarrival_p99_ns) },
    { name: "Longest", value: (s) => s.interarrival_max_ns, text: (s) => s.datagrams > 1 ? nanos(s.interarrival_max_ns) : "-" },
    { name: "Size", value: (s) => s.size_max, text: (s) => s.size_min === s.size_max ? comma(s.size_max) : comma(s.size_min) + " to " + comma(s.size_max) },
  ], r.streams, (s) => s.group + " " + s.source + " " + s.interface);
}

function lossTables(r) {
  const numbered = r.numberings.filter((n) => n.protocol !== "unknown");
  if (numbered.length || r.losses.length) {
    const box = card("Losses", "Numbers that never came, came twice or late");
    body.append(box);
    if (r.losses.length) {
      box.append(el("p", {}, "The recording says that it lost: ", r.losses.map((l) => comma(l.total) + " on " + l.interface).join(", ") + "."));
    }
    if (numbered.length) {
      const n = (name, key, hot) => ({ name, value: (x) => x[key], text: (x) => comma(x[key]), hot: hot ? (x) => x[key] > 0 : null });
      const t = table([
        { name: "Group", left: true, value: (x) => x.group }, { name: "Source", left: true, value: (x) => x.source },
        { name: "Protocol", left: true, value: (x) => x.protocol, text: (x) => x.protocol + (x.confidence < 1 ? " (" + trimmed(Math.floor(1000 * x.confidence) / 10, 1) + " % sure)" : "") },
        { name: "Numbering", left: true, value: (x) => x.channel || "" },
        n("Received", "received"), n("Missing", "missing", true), n("Gaps", "gap_count"), n("By the recorder, at most", "lost_in_recording"), n("Twice", "duplicates"), n("Late", "reordered"), n("Resets", "resets"),
      ], numbered, { sort: 5, label: "losses" });
      t.box.id = "losses";
      box.append(t.box);
    }
  }
  if (r.events.length) eventTable(r.events);
}

function eventTable(events) {
  const box = card("Events", "What happened while it was recorded");
  body.append(box);
  const t = table([
    { name: "Time (UTC)", left: true, value: (e) => e.at_ns, text: (e) => clock.text(e.at_ns, 1e3, true) },
    { name: "What", left: true, value: (e) => e.kind }, { name: "Interface", left: true, value: (e) => e.interface || "" },
    { name: "", left: true, wrap: true, text: (e) => e.text },
  ], events, { label: "events", go: (e) => view && view.set(e.at_ns - 1e9, e.at_ns + 1e9) });
  box.append(t.box);
}
