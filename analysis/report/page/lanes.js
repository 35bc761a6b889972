// Lanes: one for each stream, with marks where something is missing.

/** laneChart shows lanes [{label, name, from, to, marks: [{from, to, count, key, text}]}] over time. */
function laneChart(parent, view, clock, lanes, what) {
  const LANE = 22, narrow = innerWidth < 700;
  const size = () => Math.min(narrow ? 136 : 300, 24 + 6.3 * Math.max(...lanes.map((l) => l.label.length)));
  const cut = (s) => { const n = Math.floor((size() - 20) / 6.3); return s.length > n ? s.slice(0, n / 2 - 1) + "…" + s.slice(-n / 2) : s; };
  const near = (u) => {
    const lane = lanes[Math.floor(u.posToVal(u.cursor.top, "y"))];
    if (!lane) return [];
    const reach = 5 * (view.to - view.from) / Math.max(u.bbox.width / devicePixelRatio, 1), t = u.posToVal(u.cursor.left, "x") * 1e9;
    let best = null, distance = reach;
    for (const m of lane.marks) {
      const d = t < m.from ? m.from - t : t > m.to ? t - m.to : 0;
      if (d <= distance && (d < distance || !best)) { best = m; distance = d; }
    }
    return [lane, best];
  };
  const chart = new TimeChart(parent, view, clock, {
    label: what, height: 40 + LANE * lanes.length + 4, timeOnTop: true,
    lines: () => [{ key: "lane", name: "", hidden: true }],
    data: (a, b) => [[a / 1e9, b / 1e9], [null, null]],
    scale: () => ({ range: () => [0, lanes.length], dir: -1, auto: false }),
    yAxis: () => ({ size: size(), splits: () => lanes.map((l, i) => i + 0.5), values: () => lanes.map((l) => cut(l.label)), grid: { show: false }, ticks: { show: false } }),
    draw: (u) => {
      const { ctx } = u, dpr = devicePixelRatio, { left, top, width, height } = u.bbox;
      const x = (ns) => u.valToPos(ns / 1e9, "x", true);
      ctx.save();
      ctx.beginPath(); ctx.rect(left, top, width, height); ctx.clip();
      lanes.forEach((l, i) => {
        const y = u.valToPos(i + 0.5, "y", true), h = LANE * dpr * 0.62;
        ctx.fillStyle = css("--lane");
        const a = Math.max(x(l.from), left), b = Math.min(x(l.to), left + width);
        if (b >= a) ctx.fillRect(a, y - 1.5 * dpr, Math.max(b - a, dpr), 3 * dpr);
        for (const m of l.marks) {
          if (m.to < view.from || m.from > view.to) continue;
          const w = Math.max(x(m.to) - x(m.from), 2.5 * dpr);
          ctx.fillStyle = css("--" + m.key);
          ctx.fillRect((x(m.from) + x(m.to)) / 2 - w / 2, y - h / 2, w, h);
        }
      });
      ctx.restore();
    },
    keys: (u, at) => {
      const [lane, mark] = at != null && u.cursor.top >= 0 ? near(u) : [];
      const used = new Set(lanes.flatMap((l) => l.marks.map((m) => m.key)));
      const items = [["lost", "missing"], ["noted", "lost by the recorder"], ["event", "event"]].filter(([k]) => used.has(k)).map(([k, n]) => [k, n]);
      if (!lane) return [items.length ? items : [["lane", "nothing is missing"]], null];
      return [mark ? [[mark.key, mark.text]] : items, (lane.name || lane.label) + (mark ? ", " + clock.text(mark.from, 1e3) : "")];
    },
  });
  chart.box.classList.add("tall");
  return chart;
}
