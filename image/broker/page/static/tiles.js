// The workers: a tile each, cards while there are few. One tab stop; the arrow keys move between tiles.

import { clock, count, duration, element, fill, legend, memory, process, say } from "./text.js";

const CARDS = 40;
const MANY = 400;
const HIGH = 0.9;
const TABLE_ROWS = 2000;
const STATES = {
  busy: "runs a future", attached: "attached to a session", idle: "idle", offered: "offered to a session",
  draining: "draining: its pod is being deleted", retiring: "retiring: not needed",
};

export class Tiles {
  #model;
  #tiles = new Map();
  #drawn = new Map();
  #active = "";
  #box = document.getElementById("tiles");
  #detail = document.getElementById("detail");
  #table = document.getElementById("workers-table");

  constructor(model) {
    this.#model = model;
    this.#box.addEventListener("keydown", (event) => this.#key(event));
    this.#box.addEventListener("pointerover", (event) => this.#activate(event.target.closest(".tile")?.dataset.pod));
    this.#box.addEventListener("focus", () => this.#activate(this.#active || this.#tiles.keys().next().value));
    this.#table.addEventListener("toggle", () => this.draw(this.pods, this.short));
    legend(document.getElementById("states"), ["busy", "attached", "idle", "draining", "retiring"].map((s) => [s, s]));
  }

  draw(pods, short) {
    this.pods = pods;
    this.short = short;
    const there = pods.filter((pod) => this.#model.workers.has(pod));
    const dense = there.length > CARDS;
    if (dense !== this.#box.classList.contains("dense")) this.#drawn.clear();
    this.#box.classList.toggle("dense", dense);
    this.#box.classList.toggle("many", there.length > MANY);
    this.#box.hidden = !there.length;
    for (const [pod, tile] of this.#tiles)
      if (!this.#model.workers.has(pod)) {
        tile.remove();
        this.#tiles.delete(pod);
        this.#drawn.delete(pod);
      }
    there.forEach((pod, i) => {
      const tile = this.#tiles.get(pod) ?? this.#make(pod);
      if (this.#box.children[i] !== tile) this.#box.insertBefore(tile, this.#box.children[i] ?? null);
      this.#update(tile, this.#model.workers.get(pod));
    });
    this.#describe();
    if (this.#table.open) this.#fillTable(there);
  }

  #make(pod) {
    const tile = element("div", { className: "tile", id: `tile-${pod}` }, element("b"), element("span"), element("i"));
    tile.setAttribute("role", "option");
    tile.dataset.pod = pod;
    this.#tiles.set(pod, tile);
    return tile;
  }

  #update(tile, worker) {
    const cards = !this.#box.classList.contains("dense");
    if (cards) {
      say(tile.children[0], this.short(worker.pod));
      say(tile.children[1], this.#line(worker));
    }
    if (this.#drawn.get(worker.pod) === worker) return;
    this.#drawn.set(worker.pod, worker);
    const part = worker.memory !== null && worker.limit ? worker.memory / worker.limit : 0;
    tile.className = `tile ${worker.state}${part > HIGH ? " high" : ""}`;
    tile.classList.toggle("active", worker.pod === this.#active);
    tile.setAttribute("aria-selected", worker.pod === this.#active);
    tile.style.setProperty("--memory", Math.min(1, part).toFixed(3));
    if (cards) tile.removeAttribute("aria-label"); // what it shows is its name
    else tile.setAttribute("aria-label", `${worker.pod}, ${worker.state} ${worker.label}`);
  }

  #line(worker) {
    return `${worker.label || worker.state} · ${duration(this.#model.now() - worker.since)}`;
  }

  #describe() {
    const worker = this.#model.workers.get(this.#active);
    const text = worker
      ? [
          `${worker.pod} on ${worker.node}`,
          `${STATES[worker.state] ?? worker.state}${worker.label ? ` “${worker.label}”` : ""} since ${clock(worker.since)}`,
          memory(worker) && `memory ${memory(worker)}`,
          worker.session ? `for R session ${process(worker.session)}` : "",
          `${count(worker.uses)} futures so far`,
          worker.losses ? `lost ${worker.losses} times` : "",
        ].filter(Boolean).join(" · ")
      : this.#model.workers.size ? "" : "No worker is connected. plan() in R starts them.";
    say(this.#detail, text);
  }

  #activate(pod) {
    if (!pod || pod === this.#active) return;
    const before = this.#tiles.get(this.#active);
    before?.classList.remove("active");
    before?.setAttribute("aria-selected", "false");
    this.#active = pod;
    const tile = this.#tiles.get(pod);
    tile.classList.add("active");
    tile.setAttribute("aria-selected", "true");
    this.#box.setAttribute("aria-activedescendant", tile.id);
    this.#describe();
  }

  #key(event) {
    const tiles = [...this.#box.children];
    const at = tiles.indexOf(this.#tiles.get(this.#active));
    const first = tiles[0]?.offsetTop;
    const columns = Math.max(1, tiles.filter((tile) => tile.offsetTop === first).length);
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns, Home: -at, End: tiles.length - 1 - at };
    if (!(event.key in step)) return;
    event.preventDefault();
    const tile = tiles[Math.min(tiles.length - 1, Math.max(0, at + step[event.key]))];
    this.#activate(tile?.dataset.pod);
    tile?.scrollIntoView({ block: "nearest" });
  }

  #fillTable(pods) {
    const now = this.#model.now();
    const rows = pods.slice(0, TABLE_ROWS).map((pod) => {
      const worker = this.#model.workers.get(pod);
      return [
        pod, worker.node, worker.state, duration(now - worker.since), worker.label, memory(worker),
        process(worker.session), count(worker.uses), worker.losses || "",
      ];
    });
    fill(this.#table.querySelector("tbody"), rows);
  }
}
