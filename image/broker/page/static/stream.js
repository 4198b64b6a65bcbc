// The task stream: a lane a worker, a bar a future. Only the lanes in sight are drawn.
// Drawn here, not by the charts' library, which draws lines over time. A thousand lanes that scroll, bars that grow while
// their future runs, a label in each, and the bar below the pointer would be a plotter of our own inside the library.

import { clock, duration, legend } from "./text.js";
import { hideTip, showTip } from "./tip.js";
import { colours, prepare, ticks } from "./view.js";

const NAMES = 92;
const AXIS = 20;
const TALLEST = 24;
const LOWEST = 4;
const HIGHEST = 352;
const LABEL_SIZE = 14;
const OUTCOMES = {
  running: "running", done: "done", failed: "failed", lost: "lost with its worker", cancelled: "cancelled",
  attached: "attached to a session",
};

// Class of an outcome: outcomes that are not listed share the colour of failed ones.
function kind(outcome) {
  return outcome in OUTCOMES ? outcome : "failed";
}

function hue(label) {
  let h = 0;
  for (const c of label.replace(/[0-9]+/g, "")) h = (h * 31 + c.codePointAt(0)) % 360;
  return h;
}

// Index of the first bar that ends after a time; a lane is in the order of its ends.
function firstAfter(lane, at) {
  let [low, high] = [0, lane.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (lane[middle].end > at) high = middle;
    else low = middle + 1;
  }
  return low;
}

export class Stream {
  #model;
  #view;
  #box = document.getElementById("stream");
  #canvas = this.#box.querySelector("canvas");
  #spacer = this.#box.querySelector(".spacer");
  #colour = document.getElementById("colour");
  #pods = [];
  #short = (pod) => pod;
  #places = [];
  #theme = colours();

  constructor(model, view) {
    this.#model = model;
    this.#view = view;
    legend(document.getElementById("outcomes"), Object.keys(OUTCOMES).map((o) => [o, o]));
    this.#box.addEventListener("scroll", () => this.draw());
    this.#colour.addEventListener("change", () => this.draw());
    this.#box.addEventListener("keydown", (event) => this.#key(event));
    this.#box.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    this.#box.addEventListener("pointerdown", (event) => this.#grab(event));
    this.#box.addEventListener("pointermove", (event) => this.#point(event));
    this.#box.addEventListener("pointerleave", hideTip);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => (this.#theme = colours()));
  }

  lanes(pods, short) {
    this.#pods = pods;
    this.#short = short;
  }

  draw() {
    const wanted = `${Math.min(HIGHEST, AXIS + TALLEST * Math.max(3, this.#pods.length) + 4)}px`;
    if (this.#box.style.height !== wanted) this.#box.style.height = wanted;
    const [width, height] = [this.#box.clientWidth, this.#box.clientHeight];
    if (!width) return;
    const size = Math.min(TALLEST, Math.max(LOWEST, (height - AXIS) / Math.max(1, this.#pods.length)));
    const total = AXIS + size * this.#pods.length;
    this.#spacer.style.height = `${Math.max(0, total - height)}px`;
    const context = prepare(this.#canvas, width, height);
    const top = this.#box.scrollTop;
    const first = Math.max(0, Math.floor(top / size));
    const shown = this.#pods.slice(first, first + Math.ceil((height - AXIS) / size) + 1);
    this.#places = [];
    this.#axis(context, width, height);
    context.save();
    context.beginPath();
    context.rect(0, AXIS, width, height - AXIS);
    context.clip();
    const lanes = new Map();
    shown.forEach((pod, i) => {
      const y = AXIS + (first + i) * size - top;
      lanes.set(pod, y);
      this.#lane(context, pod, y, size, width, first + i);
    });
    for (const bar of this.#model.running(lanes)) this.#bar(context, bar, lanes.get(bar.pod), size, width);
    context.restore();
    const { running, queued } = this.#model.numbers;
    this.#box.setAttribute("aria-label", `Task stream: ${this.#pods.length} workers, ${running} futures run, ${queued} wait`);
    this.bars = this.#places.length;
    this.#box.dataset.bars = this.bars;
  }

  #axis(context, width, height) {
    const { from, to, span } = this.#view;
    const { found, seconds } = ticks(from, to, width - NAMES);
    for (const at of found) {
      const x = NAMES + ((at - from) / span) * (width - NAMES);
      context.fillStyle = this.#theme.line;
      context.fillRect(x, AXIS - 4, 1, height);
      context.fillStyle = this.#theme.quiet;
      if (x < width - 50) context.fillText(clock(at, seconds), x + 3, 12);
    }
  }

  #lane(context, pod, y, size, width, number) {
    const { from, to } = this.#view;
    const every = Math.ceil(12 / size);
    if (number % every === 0) {
      context.fillStyle = this.#model.workers.has(pod) ? this.#theme.text : this.#theme.quiet;
      let name = this.#short(pod);
      if (name.length > 15) name = `…${name.slice(-14)}`;
      context.fillText(name, 0, y + Math.max(10, size / 2 + 4), NAMES - 6);
    }
    const lane = this.#model.lanes.get(pod) ?? [];
    for (let i = firstAfter(lane, from); i < lane.length && lane[i].start < to; i += 1)
      this.#bar(context, lane[i], y, size, width);
  }

  #bar(context, bar, y, size, width) {
    const { from, to, span } = this.#view;
    const scale = (width - NAMES) / span;
    const end = bar.end || this.#model.now();
    if (end < from || bar.start > to) return;
    const left = NAMES + Math.max(0, bar.start - from) * scale;
    const right = NAMES + (Math.min(end, to) - from) * scale;
    const gap = size > 6 ? 2 : size > 3 ? 1 : 0;
    const w = Math.max(1, right - left - (right - left > 3 ? 1 : 0));
    const what = kind(bar.outcome);
    const byLabel = this.#colour.value === "label" && (what === "done" || what === "running");
    context.fillStyle = byLabel ? `hsl(${hue(bar.label)} 50% ${what === "done" ? 42 : 60}%)` : this.#theme[what];
    context.fillRect(left, y + gap / 2, w, size - gap);
    if (what === "failed" || what === "lost") {
      context.fillStyle = this.#theme.text; // a mark for those who do not see the colour
      context.fillRect(left, y + gap / 2, Math.min(w, 2), size - gap);
    }
    if (w > 34 && size >= LABEL_SIZE) {
      context.save();
      context.beginPath();
      context.rect(left, y, w - 4, size);
      context.clip();
      context.fillStyle = what === "running" && !byLabel ? this.#theme.text : this.#theme["bar-text"];
      context.fillText(bar.label, left + 5, y + size / 2 + 4);
      context.restore();
    }
    this.#places.push({ bar, left, right: left + Math.max(w, 3), top: y, bottom: y + size });
  }

  // Pointer, wheel and keys.

  #point(event) {
    const box = this.#box.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    const hit = this.#places.findLast((p) => x >= p.left && x <= p.right && y >= p.top && y < p.bottom);
    if (!hit || event.buttons > 0) {
      hideTip();
      return;
    }
    const { bar } = hit;
    const seconds = (bar.end || this.#model.now()) - bar.start;
    showTip(event, `${bar.label}\n${OUTCOMES[bar.outcome] ?? bar.outcome}, ${duration(seconds)} from ${clock(bar.start)}\n${bar.pod}`);
  }

  #grab(event) {
    if (event.button) return;
    this.#box.setPointerCapture(event.pointerId);
    let x = event.clientX;
    const move = (moved) => {
      const width = this.#box.clientWidth - NAMES;
      if (moved.clientX !== x) this.#view.pan(((x - moved.clientX) / width) * this.#view.span);
      x = moved.clientX;
    };
    this.#box.addEventListener("pointermove", move);
    this.#box.addEventListener("lostpointercapture", () => this.#box.removeEventListener("pointermove", move), { once: true });
  }

  #wheel(event) {
    if (event.ctrlKey || event.metaKey) {
      event.preventDefault();
      const box = this.#box.getBoundingClientRect();
      const part = Math.max(0, (event.clientX - box.left - NAMES) / (box.width - NAMES));
      this.#view.zoom(this.#view.span * 1.0015 ** event.deltaY, this.#view.from + part * this.#view.span);
    } else if (event.deltaX) {
      event.preventDefault();
      this.#view.pan((event.deltaX / this.#box.clientWidth) * this.#view.span);
    }
  }

  #key(event) {
    const { span } = this.#view;
    const keys = {
      ArrowLeft: () => this.#view.pan(-span / 5), ArrowRight: () => this.#view.pan(span / 5),
      "+": () => this.#view.zoom(span / 2), "=": () => this.#view.zoom(span / 2), "-": () => this.#view.zoom(span * 2),
      Home: () => this.#view.live(),
    };
    if (!(event.key in keys) || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    keys[event.key]();
  }
}
