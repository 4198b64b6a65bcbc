// Counts over the time that the stream shows: futures that wait and run, and those that ended in each interval.

import { clock, count, legend } from "./text.js";
import { colours, prepare, ticks } from "./view.js";

const LEFT = 44;
const BOTTOM = 18;
const TOP = 6;
const COLUMNS = 48;
const LINES = [["queued", "waiting"], ["running", "running"], ["connected", "workers"]];
const LINE_COLOURS = { queued: "queued", running: "busy", connected: "done" };
const ENDS = [["finished", "done", "done"], ["failed", "failed", "failed"], ["repeated", "again", "run again"]];

// A round number at or above the largest value.
function ceiling(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(1, value)));
  return [1, 2, 5, 10].map((m) => m * power).find((m) => m >= value) || 1;
}

export class Charts {
  #model;
  #view;
  #load = document.getElementById("load");
  #ends = document.getElementById("ends");
  #theme = colours();

  constructor(model, view) {
    this.#model = model;
    this.#view = view;
    legend(document.getElementById("load-legend"), LINES.map(([name, words]) => [LINE_COLOURS[name], words]));
    legend(document.getElementById("ends-legend"), ENDS.map(([, colour, words]) => [colour, words]));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => (this.#theme = colours()));
  }

  draw() {
    this.#drawLoad();
    this.#drawEnds();
  }

  #frame(canvas, maximum) {
    const [width, height] = [canvas.parentElement.clientWidth - 29, 176];
    const context = prepare(canvas, width, height);
    const { from, to, span } = this.#view;
    const x = (at) => LEFT + ((at - from) / span) * (width - LEFT);
    const y = (value) => height - BOTTOM - (value / maximum) * (height - BOTTOM - TOP);
    const { found, seconds } = ticks(from, to, width - LEFT);
    context.fillStyle = this.#theme.quiet;
    for (const at of found) if (x(at) < width - 48) context.fillText(clock(at, seconds), x(at), height - 4);
    context.textAlign = "right";
    for (const value of [0, maximum / 2, maximum].filter(Number.isInteger)) {
      context.fillStyle = this.#theme.line;
      context.fillRect(LEFT, y(value), width - LEFT, 1);
      context.fillStyle = this.#theme.quiet;
      context.fillText(count(value), LEFT - 6, y(value) + 4);
    }
    context.textAlign = "left";
    return { context, x, y, width };
  }

  #drawLoad() {
    const { from, to } = this.#view;
    const all = this.#model.samples;
    const first = Math.max(0, all.findIndex((sample) => sample.at >= from) - 1);
    const shown = all.slice(first).filter((sample) => sample.at <= to);
    const maximum = ceiling(Math.max(1, ...shown.flatMap((sample) => LINES.map(([name]) => sample[name]))));
    const { context, x, y, width } = this.#frame(this.#load, maximum);
    context.save();
    context.beginPath();
    context.rect(LEFT, 0, width, 200);
    context.clip();
    for (const [name] of LINES) {
      context.beginPath();
      shown.forEach((sample, i) => {
        if (i) context.lineTo(x(sample.at), y(shown[i - 1][name])); // a number holds until the next one
        context.lineTo(x(sample.at), y(sample[name]));
      });
      context.strokeStyle = this.#theme[LINE_COLOURS[name]];
      context.lineWidth = 1.8;
      context.setLineDash(name === "connected" ? [5, 3] : []);
      context.stroke();
    }
    context.restore();
    const now = this.#model.numbers;
    this.#load.setAttribute("aria-label", `Now ${now.queued} futures wait and ${now.running} run on ${now.connected} workers`);
  }

  #drawEnds() {
    const { from, to, span } = this.#view;
    const step = span / COLUMNS;
    const start = Math.floor(from / step) * step; // columns do not change while time moves on
    const columns = Array.from({ length: COLUMNS + 1 }, () => ENDS.map(() => 0));
    const { samples } = this.#model;
    for (let i = 1; i < samples.length; i += 1) {
      const [before, after] = [samples[i - 1], samples[i]];
      if (after.at < start || before.at > to) continue;
      // While no page was open there is a sample each ten seconds only: its numbers are spread over them.
      const first = Math.floor((before.at - start) / step);
      const last = Math.max(first, Math.ceil((after.at - start) / step) - 1);
      ENDS.forEach(([name], j) => {
        const more = after[name] - before[name];
        const part = (more < 0 ? after[name] : more) / (last - first + 1); // a restarted broker counts anew
        for (let at = Math.max(0, first); part && at <= last && at < columns.length; at += 1) columns[at][j] += part;
      });
    }
    const maximum = ceiling(Math.max(1, ...columns.map((column) => column.reduce((a, b) => a + b))));
    const { context, x, y, width } = this.#frame(this.#ends, maximum);
    columns.forEach((column, i) => {
      let below = 0;
      const left = Math.max(LEFT, x(start + i * step));
      const right = Math.min(width, x(start + (i + 1) * step));
      column.forEach((value, j) => {
        context.fillStyle = this.#theme[ENDS[j][1]];
        context.fillRect(left, y(below + value), Math.max(1, right - left - 1), y(below) - y(below + value));
        below += value;
      });
    });
    const now = this.#model.numbers;
    this.#ends.setAttribute("aria-label", `So far ${now.finished} done, ${now.failed} failed, ${now.repeated} run again`);
  }
}
