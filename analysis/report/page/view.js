// The stretch of time that all charts show, and what changes it.

class View {
  /** from and to in ns from the start; least is the shortest stretch that says anything. */
  constructor(from, to, least) {
    this.full = [from, to]; this.least = least;
    this.from = from; this.to = to;
    this.before = []; // stretches shown before, for going back
    this.watchers = [];
  }
  get whole() { return this.from === this.full[0] && this.to === this.full[1]; }
  watch(f) { this.watchers.push(f); }
  set(from, to, remember = true) {
    const middle = (from + to) / 2, length = Math.min(Math.max(to - from, this.least), this.full[1] - this.full[0]);
    from = Math.max(this.full[0], Math.min(middle - length / 2, this.full[1] - length));
    to = from + length;
    if (from === this.from && to === this.to) return;
    if (remember) {
      this.before.push([this.from, this.to]);
      if (this.before.length > 100) this.before.shift();
    }
    this.from = from; this.to = to;
    this.changed();
  }
  changed() { for (const f of this.watchers) f(); }
  reset() { this.set(...this.full); }
  back() { const b = this.before.pop(); if (b) this.set(b[0], b[1], false); }
  zoom(by, at = (this.from + this.to) / 2, remember = true) {
    this.set(at - (at - this.from) * by, at + (this.to - at) * by, remember);
  }
  pan(part, remember = true) {
    const by = (this.to - this.from) * part;
    const move = by < 0 ? Math.max(by, this.full[0] - this.from) : Math.min(by, this.full[1] - this.to);
    this.set(this.from + move, this.to + move, remember);
  }
  /** key acts on a key and says whether it was one of these. */
  key(e) {
    if (e.ctrlKey || e.metaKey || e.altKey) return false;
    switch (e.key) {
      case "+": case "=": this.zoom(0.5); return true;
      case "-": case "_": this.zoom(2); return true;
      case "ArrowLeft": this.pan(e.shiftKey ? -0.8 : -0.2); return true;
      case "ArrowRight": this.pan(e.shiftKey ? 0.8 : 0.2); return true;
      case "0": case "Escape": this.reset(); return true;
      case "Backspace": this.back(); return true;
    }
    return false;
  }
}
