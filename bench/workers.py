"""Compares the workers with those of the article and of stock future: waiting, plan(), futures, growth, a lost worker.

    python bench/workers.py [--workers 40] [--stock 8] [--idle 600] [--max 100] [--only futures large]

Runs on stack dev's cluster (`make up` first), in a namespace of its own: a release of this project with twice
--workers, and the article's own worker line in pods of the same image. Both wait --idle seconds side by side. CPU is
kubelet's figure for the worker pods over the last minute of that time, in percent of one core. The article's workers
are fewer by default: each that has waited long reconnects only after up to half that time. Prints one Markdown table.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import article
from bench.r_package import WRITE_PACKAGE
from bench.release import image_of_stack_dev, install
from common.errors import UserError
from common.paths import REPO
from common.progress import step
from image.broker.diagnosis import is_ready
from local import cluster

NAMESPACE = "bench-workers"
OURS = "deploy/ours-scheduler"
STOCK = "deploy/stock"
STOCK_LIMIT_SECONDS = 900
PARTS = ["waited", "futures", "world", "large", "grown", "queued", "lost", "planned"]

PLAN_CODE = """
suppressMessages(library({package}))
started <- Sys.time()
{plan}
cat("RESULT", as.numeric(Sys.time() - started, units = "secs"), nbrOfWorkers(), as.numeric(Sys.time()), "\\n")
Sys.sleep({hold})
"""
LOST_CODE = """
suppressMessages(library(future.kubernetes))
plan(kubernetes, workers = 4)
f <- future({ Sys.sleep(5); as.numeric(Sys.time()) })
while (!any(workers()$state == "busy")) Sys.sleep(0.05)
cat("POD", workers()$pod[workers()$state == "busy"], "\\n")
value(f)
cat("RESULT", as.numeric(Sys.time()), "\\n")
"""
QUEUED_CODE = """
suppressMessages(library(future.kubernetes))
plan(kubernetes, workers = c(1, 8))
value(future(1))
cat(system.time(value(lapply(1:60, function(i) future(Sys.sleep(0.3)))))[["elapsed"]])
"""


def main() -> int:
    """Install both, wait, measure, print the table, and remove everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=40)
    parser.add_argument("--stock", type=int, default=8)
    parser.add_argument("--idle", type=int, default=600, help="seconds of waiting before plan()")
    parser.add_argument("--max", type=int, default=100, help="workers of the largest plan()")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to measure")
    arguments = parser.parse_args()
    node = cluster.running("dev")
    if node is None:
        print("error: stack dev does not run. Fix: make up", file=sys.stderr)
        return 1
    n, load = arguments.workers, os.getloadavg()[0]
    rows: list[tuple[str, str, str]] = []
    try:
        with step("Starting the workers of both"):
            set_up(node, 2 * n, max(2 * n, arguments.max), arguments.stock)
        parts: dict[str, Callable[[], None]] = {
            "waited": lambda: waited(node, arguments, rows),
            "futures": lambda: futures(node, n, rows),
            "world": lambda: world(node, n, rows),
            "large": lambda: large(node, n, rows),
            "grown": lambda: grown(node, n, rows),
            "queued": lambda: queued(node, rows),
            "lost": lambda: lost(node, rows),
            "planned": lambda: planned(node, arguments.max, rows),
        }
        for part in arguments.only:
            parts[part]()
    finally:
        with step("Removing them"):
            node.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=180s")
        print(f"\n{os.cpu_count()} cores, load average {load:.1f} at the start. Stock: the article's worker line, or")
        print("plan(cluster) on as many R processes of one pod.\n")
        print("| | this project | stock |\n| --- | --- | --- |")
        for row in rows:
            print("| " + " | ".join(row) + " |")
    return 0


def waited(node: cluster.Node, arguments: argparse.Namespace, rows: list[tuple[str, str, str]]) -> None:
    """Measure CPU and memory of idle workers, then plan() on them: on half of ours by each of two ways."""
    n, minutes = arguments.workers, f"{arguments.idle / 60:.0f} min"
    with step(f"Waiting {arguments.idle} s") as progress:
        ends = time.monotonic() + arguments.idle
        while time.monotonic() < ends - 60:
            time.sleep(5)
            progress.update(arguments.idle - (ends - time.monotonic()), arguments.idle)
        before, at = usage(node), time.monotonic()
        time.sleep(60)
        after, lasted = usage(node), time.monotonic() - at
    cpu = {kind: 100 * (after[kind][0] - before[kind][0]) / lasted for kind in before}
    memory = {kind: after[kind][1] / (1 << 20) for kind in after}
    rows.append(
        (
            "CPU of idle workers together, of one core",
            f"{cpu['ours']:.2f} % ({2 * n} workers)",
            f"{cpu['stock']:.2f} % ({arguments.stock})",
        )
    )
    rows.append(
        (
            "memory of an idle worker (working set)",
            f"{memory['ours'] / 2 / n:.0f} MiB",
            f"{memory['stock'] / arguments.stock:.0f} MiB",
        )
    )
    with step("plan() on the workers that waited"):
        # The first session keeps its half, so that the second gets workers that have waited too.
        command = f"plan(kubernetes, workers = {n})"
        with Session(node, PLAN_CODE.format(package="future.kubernetes", plan=command, hold=20)) as session:
            ours = float(session.words("RESULT")[0])
            recipe = plan(node, OURS, "future", "plan(cluster, manual = TRUE, quiet = TRUE)")
    with step(f"plan() on the article's workers, at most {STOCK_LIMIT_SECONDS} s"):
        try:
            stock = plan(node, STOCK, "future", article.PLAN.format(n=arguments.stock))
            said = f"{stock[0]:.1f} s ({stock[1]} workers)"
        except (UserError, subprocess.TimeoutExpired):
            said = f"none after {STOCK_LIMIT_SECONDS} s ({arguments.stock} workers)"
    rows.append((f"`{command}`, they have waited {minutes}", f"{ours:.2f} s", ""))
    line = f"`plan(cluster, manual = TRUE)` on {recipe[1]} workers, they have waited {minutes}"
    rows.append((line, f"{recipe[0]:.2f} s", said))


def futures(node: cluster.Node, n: int, rows: list[tuple[str, str, str]]) -> None:
    """Run futures.R: this project's backend, and stock plan(cluster) on as many R processes of the pod."""
    with step(f"Futures on {n} workers, by both"):
        code = (REPO / "bench" / "futures.R").read_text()
        printed = rscript(node, OURS, code, n, timeout=1200)
    for line in printed.splitlines():
        if line.startswith("ROW\t"):
            _, what, ours, stock = line.split("\t")
            rows.append((what, ours, stock))


def world(node: cluster.Node, n: int, rows: list[tuple[str, str, str]]) -> None:
    """Measure what packages and files of the session add to one future of a second on each of n workers."""
    with step(f"Packages and files of the session on {n} workers"):
        scaled(node, n)
        code = WRITE_PACKAGE + (REPO / "bench" / "world.R").read_text()
        times = [float(word) for word in rscript(node, OURS, code, n).split()]
    _, without, package, again, project, unchanged, one = times
    rows.append((f"one future of 1 s on each of {n} workers", f"{without:.2f} s", ""))
    rows.append(("the same with a package of 5 MB of the session", f"{package:.2f} s, again {again:.2f} s", "cannot"))
    words = f"{project:.2f} s, again {unchanged:.2f} s, with one changed {one:.2f} s"
    rows.append(("the same in a project of 1,000 files, 50 MB", words, "cannot"))


def large(node: cluster.Node, n: int, rows: list[tuple[str, str, str]]) -> None:
    """Measure how long 100 MB take to each of n workers, and the same bytes by the broker's TLS and nothing else."""
    with step(f"100 MB to each of {n} workers"):
        first, again = rscript(node, OURS, (REPO / "bench" / "large.R").read_text(), n).split()
        command = ["python3", "-", "--clients", str(n)]
        code = (REPO / "bench" / "tls.py").read_text()
        done: Any = node.kubectl("-n", NAMESPACE, "exec", "-i", OURS, "--", *command, input=code, timeout=300)
    rows.append((f"100 MB to each of {n} workers, until all have begun", f"{first} s, again {again} s", ""))
    rows.append((f"the same bytes to {n} plain clients by the broker's TLS", f"{done.stdout.strip()} s", ""))


def grown(node: cluster.Node, n: int, rows: list[tuple[str, str, str]]) -> None:
    """Measure plan() from 4 workers to n, in total and from the start of the last pod's container."""
    with step(f"From 4 to {n} workers"):
        scaled(node, 4)
        seconds, _, ended = plan(node, OURS, "future.kubernetes", f"plan(kubernetes, workers = {n})")
        last = started(node, n)
    said = f"{seconds:.1f} s, {ended - last:.1f} s after the last container started"
    rows.append((f"`plan(kubernetes, workers = {n})` with 4 there", said, "cannot"))


def queued(node: cluster.Node, rows: list[tuple[str, str, str]]) -> None:
    """Measure short futures on an elastic plan that starts with one worker, on a node that has the image."""
    with step("Short futures on an elastic plan"):
        scaled(node, 1)
        seconds = float(rscript(node, OURS, QUEUED_CODE, timeout=300).split()[-1])
    rows.append(("60 futures of 0.3 s on `workers = c(1, 8)`", f"{seconds:.1f} s", "cannot"))


def started(node: cluster.Node, n: int) -> float:
    """Return the start of the last of n workers' containers (epoch), once kubelet has reported all of them.

    Kubernetes reports whole seconds, rounded down, so a duration from this time is up to one second too long.
    """
    for _ in range(30):
        states = [
            datetime.fromisoformat(container["state"]["running"]["startedAt"]).timestamp()
            for pod in our_pods(node)
            for container in pod["status"].get("containerStatuses", ())
            if "running" in container["state"]
        ]
        if len(states) >= n:
            return max(states)
        time.sleep(1)
    raise UserError(f"kubelet told of {len(states)} containers of {n}")


def lost(node: cluster.Node, rows: list[tuple[str, str, str]]) -> None:
    """Measure the time from the deletion of a worker's pod to the value of its future of five seconds."""
    with step("A worker is lost"), Session(node, LOST_CODE) as session:
        (pod,) = session.words("POD")
        node.kubectl("-n", NAMESPACE, "delete", "pod", pod, "--grace-period=0", "--force", "--wait=false")
        deleted = time.time()
        (ended,) = session.words("RESULT")
    what = "a future of 5 s whose worker's pod is deleted, from then to its value"
    rows.append((what, f"{float(ended) - deleted:.1f} s", "lost"))


def planned(node: cluster.Node, n: int, rows: list[tuple[str, str, str]]) -> None:
    """Measure plan() on n workers that have waited."""
    with step(f"plan(kubernetes) on {n} workers that wait"):
        scaled(node, n)
        time.sleep(20)
        seconds, had, _ = plan(node, OURS, "future.kubernetes", f"plan(kubernetes, workers = {n})")
    rows.append((f"`plan(kubernetes)` on {had} waiting workers", f"{seconds:.2f} s", ""))


def set_up(node: cluster.Node, workers: int, maximum: int, stock: int) -> None:
    """Install the project's release, and the article's workers with a scheduler of their own."""
    image = image_of_stack_dev(node)
    node.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=180s")
    install(node, NAMESPACE, "ours", secrets.token_urlsafe(48), {
        "image": image,
        # Memory for stock's R processes, which run in the scheduler pod.
        "scheduler": {"homeGiB": 0, "resources": {"requests": {"cpu": "5m", "memory": "64Mi"},
                                                  "limits": {"memory": "8Gi"}}},
        "worker": {"replicas": workers, "maxReplicas": maximum,
                   "resources": {"requests": {"cpu": "5m", "memory": "64Mi"}, "limits": {"memory": "1Gi"}}},
    })  # fmt: skip
    objects = {"apiVersion": "v1", "kind": "List", "items": article.objects(NAMESPACE, image, stock)}
    node.kubectl("apply", "-f", "-", input=json.dumps(objects))
    for name in ("stock", "stock-worker"):
        node.kubectl("-n", NAMESPACE, "rollout", "status", f"deployment/{name}", "--timeout=300s")


def usage(node: cluster.Node) -> dict[str, tuple[float, float]]:
    """Return kubelet's CPU seconds so far and working set in bytes of the worker pods of each kind."""
    summary = json.loads(node.kubectl("get", "--raw", "/api/v1/nodes/node/proxy/stats/summary").stdout)
    used = {"ours": (0.0, 0.0), "stock": (0.0, 0.0)}
    for pod in summary["pods"]:
        name, namespace = pod["podRef"]["name"], pod["podRef"]["namespace"]
        for kind, (cpu, memory) in used.items():
            if namespace == NAMESPACE and name.startswith(f"{kind}-worker-"):
                used[kind] = (
                    cpu + pod["cpu"]["usageCoreNanoSeconds"] / 1e9,
                    memory + pod["memory"]["workingSetBytes"],
                )
    return used


def scaled(node: cluster.Node, workers: int) -> None:
    """Scale to that number of workers; wait until all are ready and surplus pods are gone."""
    rscript(node, OURS, f"future.kubernetes::scale_workers({workers}L)")
    for _ in range(150):
        there = our_pods(node)
        if all(map(is_ready, there)) and len(there) == workers:
            return
        time.sleep(2)
    raise UserError(f"there were not {workers} workers within 300 s")


def our_pods(node: cluster.Node) -> list[dict[str, Any]]:
    """Return the pods of this project's workers, terminating ones included."""
    selector = "component=worker,app.kubernetes.io/instance=ours"
    found = node.kubectl("-n", NAMESPACE, "get", "pods", "-l", selector, "-o", "json").stdout
    pods: list[dict[str, Any]] = json.loads(found)["items"]
    return pods


def rscript(node: cluster.Node, where: str, code: str, *arguments: object, timeout: float = STOCK_LIMIT_SECONDS) -> str:
    """Run an R program with arguments and return its standard output."""
    command = ["Rscript", "-", *map(str, arguments)]
    done: Any = node.kubectl("-n", NAMESPACE, "exec", "-i", where, "--", *command, input=code, timeout=timeout)
    return str(done.stdout)


def plan(node: cluster.Node, where: str, package: str, command: str) -> tuple[float, int, float]:
    """Call plan() in a new R session; return its seconds, its number of workers, and the time of its end (epoch)."""
    printed = rscript(node, where, PLAN_CODE.format(package=package, plan=command, hold=0))
    _, seconds, had, ended = next(line for line in printed.splitlines() if line.startswith("RESULT")).split()
    return float(seconds), int(had), float(ended)


class Session:
    """An R session in the background, with the lines that it prints."""

    def __init__(self, node: cluster.Node, code: str) -> None:
        self._process = subprocess.Popen(
            [str(node.programs / "kubectl"), f"--kubeconfig={node.kubeconfig}", "-n", NAMESPACE, "exec", "-i", OURS,
             "--", "Rscript", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdin
        self._process.stdin.write(code)
        self._process.stdin.close()

    def words(self, first: str) -> list[str]:
        """Return the words of the next line that begins with `first`, without that word."""
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith(first):
                return line.split()[1:]
        raise UserError(f"R ended before it said {first}; its messages are above")

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.wait(120)


if __name__ == "__main__":
    sys.exit(main())
