// The stream of events, opened again whenever it ends, and what to say of that.

const SILENT_SECONDS = 10;
const LONGEST_PAUSE = 5;

export class Link {
  #source;
  #pause = 0;
  #heard = 0;
  #said;

  // said(state, text): "live", "lost" or "wait".
  constructor(all, changed, said) {
    this.all = all;
    this.changed = changed;
    this.#said = said;
    setInterval(() => this.#check(), 1000);
    this.open();
  }

  open() {
    this.#heard = Date.now();
    this.#source = new EventSource("events");
    this.#source.addEventListener("all", (event) => this.#hear(event, this.all));
    this.#source.addEventListener("new", (event) => this.#hear(event, this.changed));
    this.#source.addEventListener("error", () => this.#lost());
  }

  #hear(event, take) {
    this.#heard = Date.now();
    this.#pause = 0;
    take(JSON.parse(event.data));
  }

  // A port-forward whose pod has gone may stay open and silent. So may this page while the laptop sleeps. A clock that is
  // set back would hide that for as long as the step, so a step counts as silence too.
  #check() {
    if (this.#source && Math.abs(Date.now() - this.#heard) > 1000 * SILENT_SECONDS) this.#lost();
  }

  #lost() {
    if (!this.#source) return;
    this.#source.close();
    this.#source = undefined;
    setTimeout(() => this.#ask(), 1000 * this.#pause);
    this.#pause = Math.min(LONGEST_PAUSE, this.#pause + 1);
  }

  async #ask() {
    const status = await fetch("alive", { signal: AbortSignal.timeout(5000) }).then((a) => a.status, () => 0);
    if (status === 200) {
      this.open();
      return;
    }
    if (status === 403) {
      this.#said("login", "Your login has ended.");
      return;
    }
    const why = status ? "the broker does not answer; it restarts by itself" : "no way to the cluster; is the port-forward running?";
    this.#said("lost", `Reconnecting: ${why}`);
    setTimeout(() => this.#ask(), 1000 * this.#pause);
    this.#pause = Math.min(LONGEST_PAUSE, this.#pause + 1);
  }
}
