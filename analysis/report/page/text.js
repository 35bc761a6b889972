// Numbers and times as people read them.

const trimmed = (v, digits) => String(+v.toFixed(digits));

/** si writes a number with its unit: 18.5 Mbit/s. */
function si(v, unit) {
  if (v == null || Number.isNaN(v)) return "-";
  const prefixes = ["", "k", "M", "G", "T"];
  let i = 0;
  while (Math.abs(v) >= 999.5 && i < prefixes.length - 1) { v /= 1000; i++; }
  const digits = Math.abs(v) >= 100 ? 0 : Math.abs(v) >= 10 ? 1 : 2;
  return trimmed(v, digits) + " " + prefixes[i] + unit;
}

/** comma writes a whole number in groups of three. */
const comma = (n) => n == null ? "-" : Math.round(n).toLocaleString("en-US");

/** nanos writes a length of time given in ns. */
function nanos(ns) {
  if (ns == null || Number.isNaN(ns)) return "-";
  const a = Math.abs(ns);
  if (a < 1e3) return trimmed(ns, 0) + " ns";
  if (a < 1e6) return trimmed(ns / 1e3, a < 1e5 ? 1 : 0) + " us";
  if (a < 1e9) return trimmed(ns / 1e6, a < 1e8 ? 1 : 0) + " ms";
  if (a < 120e9) return trimmed(ns / 1e9, 2) + " s";
  if (a < 7200e9) return Math.floor(ns / 60e9) + " min " + Math.floor(ns / 1e9 % 60) + " s";
  if (a < 48 * 3600e9) return Math.floor(ns / 3600e9) + " h " + Math.floor(ns / 60e9 % 60) + " min";
  return trimmed(ns / 86400e9, 1) + " days";
}

/** nanosTicks writes the ticks of an axis so that they differ, however far they are from 0. */
function nanosTicks(list) {
  const most = Math.max(...list.map(Math.abs)), step = Math.abs(list[1] - list[0]) || most;
  if (!(step < most / 50)) return list.map(nanos);
  const [unit, name] = most < 1e3 ? [1, "ns"] : most < 1e6 ? [1e3, "us"] : most < 1e9 ? [1e6, "ms"] : [1e9, "s"];
  const digits = Math.min(9, Math.max(0, Math.ceil(-Math.log10(step / unit) - 1e-9)));
  return list.map((v) => (v / unit).toFixed(digits) + " " + name);
}

/** clock turns ns from the start of the document into the time of day, UTC. The start is
    taken apart so that not even the nanosecond is lost in a floating point number. */
class Clock {
  constructor(start) { // RFC 3339 with nine decimals
    this.midnight = Date.parse(start.slice(0, 10) + "T00:00:00Z");
    const [h, m, s] = start.slice(11, 19).split(":").map(Number);
    this.intoDay = ((h * 60 + m) * 60 + s) * 1e9 + Number(start.slice(20, 29)); // ns, exact below 2^53
  }
  /** text writes a time with the decimals that a step of ns needs. */
  text(ns, step = 1, withDay = false) {
    const t = Math.round(this.intoDay + ns);
    const day = Math.floor(t / 86400e9);
    let rest = t - day * 86400e9;
    const two = (n) => String(n).padStart(2, "0");
    const s = Math.floor(rest / 1e9);
    let text = two(Math.floor(s / 3600)) + ":" + two(Math.floor(s / 60) % 60);
    if (step < 60e9) text += ":" + two(s % 60);
    const digits = step >= 1e9 ? 0 : Math.min(9, Math.ceil(-Math.log10(step / 1e9) - 1e-9));
    if (digits > 0) text += "." + String(rest - s * 1e9).padStart(9, "0").slice(0, digits);
    return withDay ? this.day(day) + " " + text : text;
  }
  day(n) { return new Date(this.midnight + n * 86400e3).toISOString().slice(0, 10); }
  dayOf(ns) { return this.day(Math.floor((this.intoDay + ns) / 86400e9)); }
}
