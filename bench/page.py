"""The live page's cost with 1,000 workers and 100,000 tasks an hour, in CPU of broker and front door, and what is seen.

    python bench/page.py [--workers 1000] [--tasks-an-hour 100000] [--pages 0 1 10] [--browser]
    python bench/page.py --serve FOLDER [--workers 1000]     keeps that running, with its socket in FOLDER

Broker, with TLS, and front door are real, on loopback. Workers are stand-ins in one process whose tasks take as long as
they say; pages are readers of the stream of events, behind the login. With --browser a real one opens the page, and
reports when it is painted and how long after a future's end its bar is. Without tasks (0 an hour) all workers wait.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import os
import random
import resource
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import door
from bench.broker import cpu_seconds, memory_mib, started
from common.paths import REPO
from image.common import protocol, wire

MEASURE_SECONDS = 30.0
PASSWORD = "password-of-a-benchmark-that-protects-nothing"  # noqa: S105
ENDED: dict[str, float] = {}
"""Time at which the stand-ins ended each task, by the number in its label."""
_OPENINGS = 5
_WATCHED_SECONDS = 40.0
_LABELS = ("bootstrap", "fit-model", "cross-validate", "simulate")


def pod_name(number: int) -> str:
    """Return a name as Kubernetes gives one to a worker's pod."""
    chance = random.Random(number)  # noqa: S311 - not for secrets
    return f"future-worker-6d5f7c9b8f-{''.join(chance.choices('bcdfghjklmnpqrstvwxz2456789', k=5))}"


async def worker(port: int, context: ssl.SSLContext, number: int, few: asyncio.Semaphore) -> None:
    """One stand-in: a task's bytes say how long it takes, and how it ends."""
    async with few:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        writer.write(
            wire.encode(
                op="worker", protocol=protocol.VERSION, pod=pod_name(number), node=f"pool-8cpu-{number // 8:03d}"
            )
        )
        await reader.readline()
    while line := await reader.readline():
        message = wire.decode(line)
        if message["op"] != "task":
            continue
        seconds, status, *name = (await reader.readexactly(message["size"])).decode().split()
        memory = 300 + (37 * number) % 1700
        writer.write(wire.encode(op="usage", memory=memory, limit=2048, cpu=0.9))
        await asyncio.sleep(float(seconds))
        if name:
            ENDED[name[0]] = time.time()
        if status == "dies":
            writer.write(wire.encode(op="ended", id=message["id"], status=-9, oom=True, limit=2048, tail=""))
        else:
            writer.write(wire.encode(op="result", id=message["id"], status=status, size=2) + b"ok")


async def session(port: int, workers: int, tasks_an_hour: float) -> None:
    """Submit tasks at a steady rate, which keep most workers busy, and take what becomes of them."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    writer.write(f"protocol {protocol.VERSION}\nopen page{workers} {os.getpid()} {workers} {workers} 2\n".encode())

    async def collect() -> None:
        while words := (await reader.readline()).split():
            if words[0] in (b"done", b"unread", b"lost"):
                await reader.readexactly(int(words[2]))
                writer.write(b"got %s\n" % words[1])

    collecting = asyncio.create_task(collect())
    chance = random.Random(1)  # noqa: S311 - not for secrets
    pause, number = 3600 / tasks_an_hour, 0
    busy = 0.8 * workers * pause
    due = time.monotonic()
    while not collecting.done():
        number += 1
        label = f"{_LABELS[number // 400 % len(_LABELS)]}-{number}"
        outcome = chance.random()
        status = "dies" if outcome < 0.002 else "unread" if outcome < 0.01 else "done"
        body = f"{busy * chance.uniform(0.3, 1.7):.2f} {status} {number}".encode()
        writer.write(f"submit {number} {len(body)} - {label}\n".encode() + body)
        due += pause
        await asyncio.sleep(max(0.0, due - time.monotonic()))


@dataclass
class Door:
    """The front door, before this broker's page."""

    port: int
    pid: int
    cookie: str

    @property
    def address(self) -> str:
        """Address of the live page."""
        return f"http://localhost:{self.port}/cluster/"


@contextlib.asynccontextmanager
async def front_door(run: Path) -> AsyncIterator[Door]:
    """A front door until the block ends, and one login."""
    with tempfile.TemporaryDirectory(prefix="fk-door-") as name, socket.create_server(("127.0.0.1", 0)) as probe:
        folder, port = Path(name), int(probe.getsockname()[1])
        door.prepare(folder)
        (folder / "password").write_text(PASSWORD)
        probe.close()
        log = (folder / "log").open("wb")
        process = subprocess.Popen(
            door.command(port), cwd=REPO, env=door.environ(folder, run, "jupyterlab"), stdout=log, stderr=log
        )
        try:
            while not (cookie := await asyncio.to_thread(log_in, port)):
                await asyncio.sleep(0.1)
            yield Door(port, process.pid, cookie)
        finally:
            process.terminate()
            process.wait()
            log.close()


def log_in(port: int) -> str:
    """Return the cookies of a login; empty while nothing answers."""
    cookies: dict[str, str] = {}

    def ask(method: str, body: str = "") -> int:
        link = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        sent = {"Cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())}
        link.request(method, "/login", body, {**sent, "Content-Type": "application/x-www-form-urlencoded"})
        answer = link.getresponse()
        answer.read()
        for cookie in answer.headers.get_all("Set-Cookie") or ():
            name, _, value = cookie.split(";")[0].partition("=")
            cookies[name] = value
        return answer.status

    with contextlib.suppress(ConnectionRefusedError):
        ask("GET")
        if ask("POST", urllib.parse.urlencode({"password": PASSWORD, "_xsrf": cookies["_xsrf"]})) != 302:
            raise SystemExit("the front door refuses its password")
    return "; ".join(f"{name}={value}" for name, value in cookies.items())


async def page(at: Door, read: list[int]) -> None:
    """One open page: counts the bytes that it gets."""
    reader, writer = await asyncio.open_connection("127.0.0.1", at.port)
    writer.write(f"GET /cluster/events HTTP/1.1\r\nHost: 127.0.0.1:{at.port}\r\nCookie: {at.cookie}\r\n\r\n".encode())
    if b" 200 " not in await reader.readline():
        raise SystemExit("the front door refuses its login")
    try:
        while piece := await reader.read(1 << 16):
            read[0] += len(piece)
    finally:
        writer.close()


async def measure(broker: int, at: Door, pages: int) -> str:
    """One row: CPU of broker and front door while so many pages are open."""
    read = [0]
    readers = [asyncio.create_task(page(at, read)) for _ in range(pages)]
    await asyncio.sleep(3)
    first, read[0] = read[0], 0
    before = [cpu_seconds(broker), cpu_seconds(at.pid)]
    await asyncio.sleep(MEASURE_SECONDS)
    after = [cpu_seconds(broker), cpu_seconds(at.pid)]
    used = [f"{100 * (b - a) / MEASURE_SECONDS:.1f} %" for a, b in zip(before, after, strict=True)]
    for reader in readers:
        if reader.done():
            reader.result()
        reader.cancel()
    each = f"{read[0] / pages / MEASURE_SECONDS / 1024:.1f} KiB a second" if pages else ""
    start = f"{first / pages / 1024:.0f} KiB" if pages else ""
    return f"| {pages} | {used[0]} | {used[1]} | {memory_mib(broker)} MiB | {start} | {each} |"


_WATCH = """
window.painted = 0;
const wanted = %d;
(function look() {
  const tiles = document.querySelectorAll("#tiles .tile").length;
  if (tiles >= wanted && (%s || Number(document.getElementById("stream")?.dataset.bars) > 0))
    requestAnimationFrame(() => (window.painted = performance.now()));
  else requestAnimationFrame(look);
})();
window.seen = [];
const stream = EventSource.prototype.addEventListener;
EventSource.prototype.addEventListener = function (name, take, ...more) {
  stream.call(this, name, (event) => {
    take(event);
    if (name !== "new") return;
    const ended = JSON.parse(event.data).bars.filter((bar) => bar[3]).map((bar) => bar[5].split("-").at(-1));
    const shown = document.getElementById("stream");
    // The stream says how many bars it has drawn, each time that it draws.
    const drawn = new MutationObserver(() => {
      drawn.disconnect();
      requestAnimationFrame(() => window.seen.push(...ended.map((number) => [number, Date.now() / 1000])));
    });
    drawn.observe(shown, { attributes: true });
  }, ...more);
};
"""


def watch(at: Door, workers: int, loaded: bool) -> list[str]:
    """Open the page in a browser; return what was seen, in sentences."""
    from bench import browser

    with tempfile.TemporaryDirectory(prefix="fk-browser-") as name, browser.chromium(Path(name)) as driver:
        script = _WATCH % (workers, "false" if loaded else "true")
        driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": script})
        browser.log_in(driver, at.address, PASSWORD)
        first, whole = [], []
        for _ in range(_OPENINGS):
            driver.get(at.address)
            painted = browser.BrowserWait(driver, 30).until(lambda b: b.execute_script("return window.painted"))
            entry = "return performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
            first.append(float(driver.execute_script(entry) or 0) / 1000)
            whole.append(float(painted) / 1000)
        said = [
            f"first paint {min(first):.2f} to {max(first):.2f} s after the request, {_OPENINGS} tries",
            f"all {workers:,} tiles and the stream {min(whole):.2f} to {max(whole):.2f} s",
        ]
        if loaded:
            time.sleep(_WATCHED_SECONDS)
            seen: list[Any] = driver.execute_script("return window.seen")
            late = sorted(when - ENDED[number] for number, when in seen if number in ENDED)
            said.append(
                f"from the end of a future to its bar: median {statistics.median(late):.2f} s, "
                f"99 of 100 within {late[int(0.99 * len(late))]:.2f} s, longest {late[-1]:.2f} s, {len(late):,} futures"
            )
        return said


async def run(arguments: argparse.Namespace, folder: Path) -> None:
    """Start broker, stand-ins and load; measure, or keep them running."""
    async with started(folder, arguments.workers, worker) as (broker, sessions):
        loaded = arguments.tasks_an_hour > 0
        load = asyncio.create_task(session(sessions, arguments.workers, arguments.tasks_an_hour)) if loaded else None
        if arguments.serve:
            print(f"broker {broker}, {folder}/page.sock", flush=True)
            await asyncio.Event().wait()
        async with front_door(folder) as at:
            await asyncio.sleep(min(60.0, 2000 * 3600 / arguments.tasks_an_hour) if loaded else 5.0)
            heads = ["open pages", "CPU of the broker", "of the front door", "memory", "a page's first message", "then"]
            print("| " + " | ".join(heads) + " |\n|" + " --- |" * len(heads))
            for pages in arguments.pages:
                print(await measure(broker, at, pages), flush=True)
            if arguments.browser:
                print()
                for sentence in await asyncio.to_thread(watch, at, arguments.workers, loaded):
                    print(f"- {sentence}", flush=True)
        if load:
            load.cancel()


def main(argv: Sequence[str]) -> int:
    """Measure each number of pages, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--tasks-an-hour", type=float, default=100_000.0)
    parser.add_argument("--pages", type=int, nargs="+", default=[0, 1, 10, 0])
    parser.add_argument("--browser", action="store_true", help="also open the page in Chromium")
    parser.add_argument("--serve", type=Path)
    arguments = parser.parse_args(argv)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if arguments.browser or arguments.serve:
        from bench import browser

        browser.need_charts()
    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f} at the start\n")
    with contextlib.ExitStack() as stack, contextlib.suppress(KeyboardInterrupt):
        folder = arguments.serve or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fk-page-")))
        asyncio.run(run(arguments, folder))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
