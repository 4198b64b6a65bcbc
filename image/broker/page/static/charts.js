// Counts over the time that the stream shows: futures that wait and run, and those that ended in each interval. Drawn by
// dygraphs, a script before this one. Only numbers and times go to it, for it writes its labels as HTML.

import { clock, count, legend } from "./text.js";
import { hideTip, showTip } from "./tip.js";
import { colours, ticks } from "./view.js";

const { Dygraph } = globalThis;
const MISSING =
  "The charts are not drawn: their library did not load. The numbers at the top of the page have the same counts. " +
  "Reload the page. If this stays, the image lacks libjs-dygraphs: build it again.";
const COLUMNS = 48;
const CORNER = 30;
const LINES = [["queued", "waiting", "queued"], ["running", "running", "busy"], ["connected", "workers", "done"]];
const ENDS = [["finished", "done", "done"], ["failed", "failed", "failed"], ["repeated", "run again", "again"]];

// The library's legend sets style attributes, which the page's policy refuses; the others have no use here.
if (Dygraph) Dygraph.PLUGINS = [Dygraph.Plugins.Axes, Dygraph.Plugins.Grid];

// Ticks at whole numbers only: there is no half future.
function wholeTicks(...range) {
  return Dygraph.numericTicks(...range).filter((tick) => Number.isInteger(tick.v)).map(({ v }) => ({ v, label: count(v) }));
}

class Chart {
  #box;
  #series;
  #options;
  #graph;
  #width = 0;
  #theme = colours();

  // series: [name of the number, words, colour] of each line.
  constructor(name, series, options) {
    this.#box = document.getElementById(name);
    // The library stacks from the last series upwards, and the first is to be the lowest.
    this.#series = options.stackedGraph ? series.toReversed() : series;
    this.#options = options;
    legend(document.getElementById(`${name}-legend`), series.map(([, words, colour]) => [colour, words]));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => (this.#theme = colours()));
    if (Dygraph) return;
    this.#box.removeAttribute("role");
    this.#box.classList.add("missing");
    this.#box.textContent = MISSING;
  }

  // rows: objects with a time `at`, and a number by the name of each of the series. text: what is shown, in words.
  draw(view, rows, text) {
    if (!Dygraph) return;
    const { line } = this.#theme;
    const heights = rows.map((row) => this.#series.reduce((sum, [name]) => sum + row[name], 0));
    const now = {
      file: (rows.length ? rows : [{ at: view.from }]).map((row) => [row.at, ...this.#series.map(([name]) => row[name] ?? null)]),
      dateWindow: [view.from, view.to],
      // Parts of one future, which is spread over intervals, have whole numbers beside them too.
      valueRange: heights.every((height) => height <= 1) ? [0, 1.1] : [0, null],
      colors: this.#series.map(([, , colour]) => this.#theme[colour]),
      gridLineColor: line,
      gridLineWidth: 1,
      axisLineColor: line,
    };
    this.#box.setAttribute("aria-label", text);
    const width = this.#box.clientWidth;
    if (!width) return;
    if (this.#graph) {
      if (width !== this.#width) this.#graph.resize();
      this.#graph.updateOptions(now);
    } else {
      this.#graph = new Dygraph(this.#box, now.file, {
        ...this.#options,
        ...now,
        labels: ["Time", ...this.#series.map(([, words]) => words)],
        axes: {
          x: { ticker: (from, to, pixels) => timeTicks(from, to, pixels), drawGrid: false, axisLabelWidth: 60 },
          y: { ticker: wholeTicks, axisLabelWidth: 38 },
        },
        axisLabelFontSize: 11,
        stepPlot: true, // a number holds until the next one
        interactionModel: {}, // the stream's buttons, keys and pointer move the time of all
        highlightCallback: (event, at, points) =>
          showTip(event, [clock(at), ...points.map((point) => `${point.name}: ${count(Math.round(point.yval))}`)].join("\n")),
        unhighlightCallback: hideTip,
      });
    }
    this.#width = width;
  }
}

// The stream's ticks, but for one that would stand below the other axis' lowest number.
function timeTicks(from, to, pixels) {
  const { found, seconds } = ticks(from, to, pixels);
  const shown = found.filter((at) => ((at - from) / (to - from)) * pixels > CORNER);
  return shown.map((at) => ({ v: at, label: clock(at, seconds) }));
}

export class Charts {
  #model;
  #view;
  #load = new Chart("load", LINES, { strokeWidth: 1.8, series: { workers: { strokePattern: [5, 3] } } });
  #ends = new Chart("ends", ENDS, { stackedGraph: true, fillGraph: true, fillAlpha: 1, strokeWidth: 0 });

  constructor(model, view) {
    this.#model = model;
    this.#view = view;
  }

  draw() {
    const now = this.#model.numbers;
    this.#load.draw(
      this.#view,
      this.#loads(),
      `Now ${now.queued} futures wait and ${now.running} run on ${now.connected} workers`,
    );
    this.#ends.draw(
      this.#view,
      this.#columns(),
      `So far ${now.finished} done, ${now.failed} failed, ${now.repeated} run again`,
    );
  }

  // Samples of the time shown, and the one before, which holds at its begin.
  #loads() {
    const { from, to } = this.#view;
    const all = this.#model.samples;
    const later = all.findIndex((sample) => sample.at >= from);
    return all.slice(Math.max(0, (later < 0 ? all.length : later) - 1)).filter((sample) => sample.at <= to);
  }

  // Numbers that ended in each interval.
  #columns() {
    const { from, to, span } = this.#view;
    const step = span / COLUMNS;
    const start = Math.floor(from / step) * step; // columns do not change while time moves on
    const columns = Array.from({ length: COLUMNS + 2 }, (_, i) => ({ at: start + i * step, finished: 0, failed: 0, repeated: 0 }));
    const { samples } = this.#model;
    for (let i = 1; i < samples.length; i += 1) {
      const [before, after] = [samples[i - 1], samples[i]];
      if (after.at < start || before.at > to) continue;
      // While no page was open there is a sample each ten seconds only: its numbers are spread over them.
      const first = Math.floor((before.at - start) / step);
      const last = Math.max(first, Math.ceil((after.at - start) / step) - 1);
      for (const [name] of ENDS) {
        const more = after[name] - before[name];
        const part = (more < 0 ? after[name] : more) / (last - first + 1); // a restarted broker counts anew
        for (let at = Math.max(0, first); part && at <= last && at < columns.length; at += 1) columns[at][name] += part;
      }
    }
    return columns;
  }
}
