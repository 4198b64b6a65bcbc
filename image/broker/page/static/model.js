// The page's model: the state that the broker sent first, and the changes since. Times are on the broker's clock.

import { process } from "./text.js";

const KEPT_SECONDS = 3600;
const KEPT_BARS = 20000;

export const NUMBERS = ["queued", "running", "finished", "failed", "repeated", "cancelled", "connected", "wanted"];

function named(values) {
  return Object.fromEntries(NUMBERS.map((name, i) => [name, values[i]]));
}

function toWorker([pod, node, state, since, session, label, memory, limit, uses, losses]) {
  return { pod, node, state, since, session, label, memory, limit, uses, losses };
}

function toBar([id, pod, start, end, outcome, label]) {
  return { id, pod, start, end, outcome: outcome || "running", label: label || "#" + id.split("-").at(-2) };
}

export class Model {
  started = 0;
  workers = new Map();
  open = new Map();
  lanes = new Map(); // ended bars by pod, in the order of their end
  samples = []; // {at, ...numbers}
  details = {};
  dropped = 0;
  #offset = 0;
  #bars = 0;

  // Seconds of the epoch on the broker's clock: this machine's own may be off.
  now() {
    return Date.now() / 1000 + this.#offset;
  }

  get numbers() {
    return this.samples.at(-1) ?? named(NUMBERS.map(() => 0));
  }

  // Take a whole state; true if the broker has been restarted since the last one.
  replace(message) {
    const restarted = this.started !== 0 && message.started !== this.started;
    const known = new Set();
    const earlier = [...this.lanes.values()].flat();
    const before = this.samples;
    this.started = message.started;
    this.workers = new Map();
    this.open = new Map();
    this.lanes = new Map();
    this.#bars = 0;
    for (const bar of message.bars) known.add(bar[0] + bar[2]);
    for (const bar of earlier) if (!known.has(bar.id + bar.start)) this.#end(bar);
    this.samples = message.history.map(([at, ...values]) => ({ at, ...named(values) }));
    const first = this.samples[0]?.at ?? message.at;
    this.samples.unshift(...before.filter((sample) => sample.at < first));
    this.details = {};
    this.change(message);
    for (const lane of this.lanes.values()) lane.sort((a, b) => a.end - b.end);
    return restarted;
  }

  // Take what has changed.
  change(message) {
    this.#offset = message.at - Date.now() / 1000;
    for (const row of message.workers) this.#take(toWorker(row));
    for (const pod of message.gone ?? []) {
      this.#detach(this.workers.get(pod), message.at);
      this.workers.delete(pod);
    }
    for (const values of message.bars) {
      const bar = toBar(values);
      if (bar.end) {
        this.open.delete(bar.id);
        this.#end(bar);
      } else {
        this.open.set(bar.id, bar);
      }
    }
    this.dropped += message.dropped ?? 0;
    this.samples.push({ at: message.at, ...named(message.numbers) });
    for (const name of ["waiting", "problem", "maximum", "idle", "cost", "sessions", "losses", "memory", "deaths"])
      if (name in message) this.details[name] = message[name];
    this.#forget(message.at);
  }

  // A worker that is attached to a session as a whole has no futures of its own: its lane shows the lease.
  #take(worker) {
    const before = this.workers.get(worker.pod);
    if (before && (before.state !== worker.state || before.since !== worker.since)) this.#detach(before, worker.since);
    this.workers.set(worker.pod, worker);
  }

  #detach(worker, at) {
    if (worker?.state === "attached") this.#end(leaseOf(worker, at));
  }

  #end(bar) {
    if (!this.lanes.has(bar.pod)) this.lanes.set(bar.pod, []);
    this.lanes.get(bar.pod).push(bar);
    this.#bars += 1;
  }

  #forget(now) {
    const old = this.samples.findIndex((sample) => sample.at > now - KEPT_SECONDS);
    if (old > 60) this.samples.splice(0, old);
    if (this.#bars < 1.1 * KEPT_BARS) return;
    const ends = [...this.lanes.values()].flat().map((bar) => bar.end).sort((a, b) => b - a);
    const limit = ends[KEPT_BARS - 1];
    this.#bars = 0;
    for (const [pod, lane] of this.lanes) {
      const kept = lane.filter((bar) => bar.end >= limit);
      if (kept.length) this.lanes.set(pod, kept);
      else this.lanes.delete(pod);
      this.#bars += kept.length;
    }
  }

  // The lanes of a time: workers that are there, and those that worked then.
  pods(from) {
    const found = new Set(this.workers.keys());
    for (const [pod, lane] of this.lanes) if (lane.at(-1).end > from) found.add(pod);
    return [...found].sort((a, b) => a.localeCompare(b, undefined, { numeric: true }));
  }

  // Bars of one lane that still run.
  *running(pods) {
    for (const bar of this.open.values()) if (pods.has(bar.pod)) yield bar;
    for (const worker of this.workers.values())
      if (worker.state === "attached" && pods.has(worker.pod)) yield leaseOf(worker, 0);
  }

  // The latest bars, those that run first.
  latest(number) {
    const ended = [...this.lanes.values()].flatMap((lane) => lane.slice(-number));
    ended.sort((a, b) => b.end - a.end);
    return [...this.open.values(), ...ended].slice(0, number);
  }
}

function leaseOf(worker, end) {
  const label = `session ${process(worker.session)}`;
  return { id: `lease-${worker.pod}`, pod: worker.pod, start: worker.since, end, outcome: "attached", label };
}

// Names without what all of them begin with, which is the release's name.
export function shortener(pods) {
  if (pods.length < 2) return (pod) => pod;
  const [a, b] = [pods[0], pods.at(-1)];
  let same = 0;
  while (same < a.length && a[same] === b[same]) same += 1;
  const prefix = a.lastIndexOf("-", same - 1) + 1;
  return (pod) => pod.slice(prefix);
}
