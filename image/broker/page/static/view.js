// The time that stream and charts show together: its end follows the present until the user moves it.

const SHORTEST = 2;
const LONGEST = 3600;

export class View {
  span = 300;
  follow = true;
  changed = () => {};
  #to = 0;
  #model;

  constructor(model) {
    this.#model = model;
  }

  get to() {
    return this.follow ? this.#model.now() : this.#to;
  }

  get from() {
    return this.to - this.span;
  }

  // Show so many seconds; `at` is a time that stays where it is.
  zoom(span, at = this.to) {
    const after = Math.min(LONGEST, Math.max(SHORTEST, span));
    const to = at + ((this.to - at) * after) / this.span;
    this.span = after;
    this.#move(to);
  }

  pan(seconds) {
    this.#move(this.to + seconds);
  }

  live() {
    this.follow = true;
    this.changed();
  }

  hold() {
    this.#to = this.to;
    this.follow = false;
    this.changed();
  }

  #move(to) {
    const now = this.#model.now();
    this.follow = to >= now - 0.001 * this.span;
    this.#to = Math.min(now, Math.max(now - LONGEST, to));
    this.changed();
  }
}

// Whole steps of a time axis.
export function ticks(from, to, width) {
  const steps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800];
  const step = steps.find((s) => ((to - from) / s) * 90 < width) ?? 3600;
  const found = [];
  for (let at = Math.ceil(from / step) * step; at <= to; at += step) found.push(at);
  return { found, seconds: step < 60 };
}

// A canvas at the screen's resolution; its context in CSS pixels.
export function prepare(canvas, width, height) {
  const scale = window.devicePixelRatio || 1;
  const [w, h] = [Math.round(width * scale), Math.round(height * scale)];
  if (canvas.width !== w || canvas.height !== h) {
    canvas.width = w;
    canvas.height = h;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  context.font = "11px system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif";
  return context;
}

// Colours of the style sheet, which differ between light and dark.
export function colours() {
  const style = getComputedStyle(document.documentElement);
  return new Proxy({}, { get: (known, name) => (known[name] ??= style.getPropertyValue(`--${String(name)}`).trim()) });
}
