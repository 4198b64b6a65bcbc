// Puts the page together: what comes over the link goes into the model, and the parts draw it.

import { Charts } from "./charts.js";
import { Link } from "./link.js";
import { Model, shortener } from "./model.js";
import { Stream } from "./stream.js";
import { clock, count, duration, element, fill, memory, process, say } from "./text.js";
import { Tiles } from "./tiles.js";
import { View } from "./view.js";

const FRAME = 250;
const CHARTS_FRAME = 1000;
const LATEST = 50;
const HIGH = 0.9;
const NOTICE = 20000;
const SHOWN = [
  ["connected", "workers"], ["running", "running"], ["queued", "waiting"], ["finished", "done"],
  ["failed", "failed"], ["repeated", "run again"],
];

const byId = (id) => document.getElementById(id);
const model = new Model();
const view = new View(model);
const tiles = new Tiles(model);
const stream = new Stream(model, view);
const charts = new Charts(model, view);
let notice = "";
let due = 0;
let chartsDue = 0;

for (const [name, words] of SHOWN)
  byId("numbers").append(element("div", {}, element("dt", {}, words), element("dd", { id: `n-${name}` }, "–")));

function said(state, text) {
  byId("link").className = state === "login" ? "lost" : state;
  say(byId("link-text"), text);
  if (state === "login") byId("link-text").append(" ", element("a", { href: "." }, "Log in"));
}

function live() {
  said("live", notice || "Live");
}

function drawNumbers() {
  const now = model.numbers;
  for (const [name] of SHOWN) say(byId(`n-${name}`), count(now[name]));
  if (now.wanted > now.connected) say(byId("n-connected"), `${count(now.connected)} of ${count(now.wanted)}`);
  const { waiting = "", problem = false } = model.details;
  byId("waiting").hidden = !waiting;
  byId("waiting").classList.toggle("problem", problem);
  say(byId("waiting"), waiting && `Waiting: ${waiting}`);
}

function drawIdle() {
  const { minutes, goes } = model.details.idle ?? { minutes: 0, goes: 0 };
  const maximum = model.details.maximum === null || model.details.maximum === undefined ? "" : `At most ${count(model.details.maximum)}. `;
  const left = goes - model.now();
  let text = minutes ? `They go after ${count(minutes)} min without use.` : "They stay while unused.";
  if (minutes && goes && model.workers.size) text = left > 0 ? `Unused: they go in ${duration(left)}, at ${clock(goes, false)}.` : "Unused: they go now.";
  say(byId("idle"), maximum + text);
}

function drawCost() {
  const { cost = "" } = model.details;
  byId("cost").hidden = !cost;
  say(byId("cost"), cost);
}

function drawSessions() {
  const sessions = model.details.sessions ?? [];
  const total = sessions.reduce((sum, session) => sum + session[3], 0);
  byId("sessions").hidden = !sessions.length;
  byId("no-sessions").hidden = sessions.length > 0;
  const rows = sessions.map(([pid, mode, range, running, queued]) => {
    const part = total ? running / total : 0;
    const bar = element("i");
    bar.style.width = `${100 * part}%`;
    const share = element("span", {}, element("span", { className: "share" }, bar), `${Math.round(100 * part)} %`);
    return [process(pid), mode, range, count(running), count(queued), share];
  });
  fill(byId("sessions").tBodies[0], rows);
}

// The scheduler's pod runs R sessions, IDE and broker; near its limit a session is about to be ended.
function drawMemory() {
  const [used, limit] = model.details.memory ?? [null, null];
  byId("memory").hidden = used === null;
  if (used === null) return;
  const high = limit && used > HIGH * limit;
  say(byId("memory-text"), `Their pod uses ${memory({ memory: used, limit })}${high ? ": nearly all" : ""}`);
  byId("memory").classList.toggle("high", Boolean(high));
  byId("memory-meter").hidden = !limit;
  if (limit) Object.assign(byId("memory-meter"), { max: limit, high: HIGH * limit, optimum: 0, value: used });
}

function drawLosses() {
  const deaths = (model.details.deaths ?? []).map(({ at, what, cure }) => ({ at, what, cure }));
  const losses = [...deaths, ...(model.details.losses ?? [])].sort((a, b) => b.at - a.at);
  byId("no-losses").hidden = losses.length > 0;
  byId("losses").replaceChildren(
    ...losses.map((loss) =>
      element("li", {},
        loss.what
          ? element("p", {}, element("strong", {}, "Out of memory"), ` at ${clock(loss.at)}: ${loss.what}.`)
          : element("p", {}, element("strong", {}, loss.label), ` on ${loss.pod} at ${clock(loss.at)}: ${loss.reason}.`),
        element("p", { className: "quiet" }, loss.cure),
      ),
    ),
  );
}

function drawBars() {
  if (!byId("bars-table").open) return;
  const rows = model.latest(LATEST).map((bar) => [
    bar.label, bar.pod, bar.outcome, clock(bar.start), ((bar.end || model.now()) - bar.start).toFixed(1),
  ]);
  fill(byId("bars-table").querySelector("tbody"), rows);
}

function drawParts() {
  const pods = model.pods(view.from);
  const short = shortener(pods);
  stream.lanes(pods, short);
  tiles.draw(pods, short);
  drawNumbers();
  drawIdle();
  drawCost();
  drawBars();
  say(byId("dropped"), model.dropped ? `${count(model.dropped)} events came too fast to be shown.` : "");
}

function changed(message) {
  due = 0;
  drawParts();
  if ("sessions" in message) drawSessions();
  if ("memory" in message) drawMemory();
  if ("losses" in message || "deaths" in message) drawLosses();
}

function drawTime() {
  stream.draw();
  charts.draw();
}

// Four pictures a second while the present is shown: enough for bars to grow, and little work for the browser. What has
// changed is drawn at once. The charts take longer to draw, and move by less than a pixel in a quarter of a second.
function frame(at) {
  const moves = view.follow && model.started;
  if (moves && at >= due) {
    due = at + FRAME;
    stream.draw();
  }
  if (moves && at >= chartsDue) {
    chartsDue = at + CHARTS_FRAME;
    charts.draw();
  }
  requestAnimationFrame(frame);
}

view.changed = () => {
  byId("follow").setAttribute("aria-pressed", view.follow);
  for (const button of document.querySelectorAll("[data-span]"))
    button.setAttribute("aria-pressed", Number(button.dataset.span) === view.span);
  stream.lanes(model.pods(view.from), shortener(model.pods(view.from)));
  drawTime();
};
for (const button of document.querySelectorAll("[data-span]"))
  button.addEventListener("click", () => view.zoom(Number(button.dataset.span)));
for (const button of document.querySelectorAll("[data-zoom]"))
  button.addEventListener("click", () => view.zoom(view.span * Number(button.dataset.zoom)));
byId("follow").addEventListener("click", () => (view.follow ? view.hold() : view.live()));
byId("bars-table").addEventListener("toggle", drawBars);
addEventListener("resize", drawTime);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawTime);

new Link(
  (message) => {
    if (model.replace(message)) {
      notice = `Live again: the broker was restarted at ${clock(message.started)}`;
      setTimeout(() => ((notice = ""), live()), NOTICE);
    }
    live();
    changed(message);
    drawSessions();
    drawMemory();
    drawLosses();
    view.changed();
  },
  (message) => {
    model.change(message);
    changed(message);
  },
  said,
);
requestAnimationFrame(frame);
