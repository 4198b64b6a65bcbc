"""Measures how costs grow with the number of workers: up to 1,000 pods on 100 simulated nodes.

    python bench/simulated.py [--workers 10 100 300 1000]

On stack dev's cluster (`make up` first), in a namespace of its own: the chart's release with its scheduler pod, R and
broker for real; worker pods on nodes that kwok (https://kwok.sigs.k8s.io) plays; and for each running pod a
stand-in that speaks the agent's side of the wire (bench/peers.py). tests/e2e/test_simulated.py has the same machinery.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.release import image_of_stack_dev, install
from common.errors import UserError
from common.paths import REPO
from common.patience import patience
from common.progress import step
from local import cluster, go_binaries
from local.node.places import NODE_IP

NAMESPACE = "simulated"
NODES = 100
WORKERS_PER_NODE = 10
MARK = "future-kubernetes/simulated"
"""Label and taint of the simulated nodes, so that only this release's workers run there."""

# Reply of a worker's R to a session's first call (image/future.kubernetes/R/nodes.R), in the bytes of R's protocol.
_ANSWER = 'cat(as.character(serialize(future::FutureResult(value = 42), NULL, xdr = FALSE)), sep = "")'
_SAMPLE = """
import json, statistics, sys, time, urllib.request
from pathlib import Path
pid = next(p for p in Path("/proc").glob("[0-9]*") if b"broker.main" in (p / "cmdline").read_bytes())
def nanoseconds():
    return sum(int(file.read_text().split()[0]) for file in pid.glob("task/*/schedstat"))
def metrics():
    start = time.perf_counter()
    text = urllib.request.urlopen("http://127.0.0.1:8785/metrics").read().decode()
    return time.perf_counter() - start, text
before, start = nanoseconds(), time.monotonic()
time.sleep(float(sys.argv[1]))
cpu, lasted = nanoseconds(), time.monotonic() - start
memory = next(line for line in (pid / "status").read_text().splitlines() if line.startswith("VmRSS:"))
asked = [metrics() for _ in range(9)]
print(json.dumps({
    "cpu_seconds": cpu / 1e9, "cpu_percent": (cpu - before) / max(lasted, 1e-9) / 1e7,
    "mib": int(memory.split()[1]) / 1024,
    "metrics_seconds": statistics.median(seconds for seconds, _ in asked), "metrics": asked[-1][1],
}))
"""
_SCALE = """
suppressMessages(library(future.kubernetes))
start <- as.numeric(Sys.time())
scale_workers({n})
cat(sprintf("%.3f %.3f", start, as.numeric(Sys.time())))
"""
_SESSION = """
suppressMessages(library(future.kubernetes))
seconds <- function(expression) system.time(expression)[["elapsed"]]
table <- median(vapply(1:5, function(i) seconds(workers()), 0))
plan <- seconds(plan(kubernetes, workers = {n}))
stopifnot(nbrOfWorkers() == {n})
again <- median(vapply(1:5, function(i) {{
  plan(sequential)
  seconds(plan(kubernetes, workers = {n}))
}}, 0))
futures <- seconds(stopifnot(sum(unlist(value(lapply(1:{n}, function(i) future(i))))) == 42 * {n}))
cat(table, plan, again, futures)
"""


@dataclass
class Simulation:
    """A release with simulated workers, and its measurements."""

    node: cluster.Node
    namespace: str
    log: Path
    peers: subprocess.Popen[bytes]

    def kubectl(self, *argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Runs kubectl in the release's namespace."""
        return self.node.kubectl("-n", self.namespace, *argv, **options)

    def rscript(self, code: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Run an R program in the scheduler pod."""
        where = f"deploy/{self.namespace}-scheduler"
        return self.kubectl("exec", "-i", where, "--", "Rscript", "-", input=code, timeout=patience(timeout))

    def scale(self, n: int) -> tuple[float, float, list[str]]:
        """Call scale_workers(n) in R; return the times of call and return, and the progress lines."""
        done = self.rscript(_SCALE.format(n=n))
        start, end = done.stdout.split()
        return float(start), float(end), done.stderr.splitlines()

    def sample(self, seconds: float = 0) -> dict[str, Any]:
        """Return the broker's CPU over that many seconds and in total, its memory, and the time of /metrics."""
        where = f"deploy/{self.namespace}-scheduler"
        done = self.kubectl(
            "exec", "-i", where, "--", "python3", "-", str(seconds), input=_SAMPLE, timeout=seconds + patience(60)
        )
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def happened(self, event: str, since: float = 0) -> dict[str, float]:
        """Return the last time of an event by pod: running, connected, retired, gone or error."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.endswith("}")]
        return {line["pod"]: line["at"] for line in lines if line["event"] == event and line["at"] > since}

    def said(self, text: str) -> float | None:
        """Return the time of the last line with this text in the scheduler's log."""
        lines = self.kubectl("logs", "--timestamps", f"deploy/{self.namespace}-scheduler").stdout.splitlines()
        times = [line.split()[0] for line in lines if text in line]
        return datetime.fromisoformat(times[-1]).timestamp() if times else None

    def pods(self) -> list[dict[str, Any]]:
        """Return the worker pods."""
        found = self.kubectl("get", "pods", "-l", "component=worker", "-o", "json").stdout
        return list(json.loads(found)["items"])

    def wait(self, what: str, seconds: float, done: Callable[[], Any]) -> Any:
        """Return the first true value of `done()`. Raises UserError after that many seconds."""
        deadline = time.monotonic() + patience(seconds)
        while not (value := done()):
            if time.monotonic() > deadline:
                raise UserError(f"waited {seconds:.0f} s for {what}")
            time.sleep(0.5)
        return value

    def connected(self, state: str = "idle") -> int:
        """Return the broker's number of workers in that state."""
        found = re.search(rf'workers\{{state="{state}"\}} (\d+)', self.sample()["metrics"])
        return int(found[1]) if found else 0

    def api_load(self) -> dict[str, tuple[float, float]]:
        """Return requests and bytes so far by resource, for resources that only the broker lists in this cluster.

        The API server counts neither by namespace nor by client, but controllers watch instead of listing.
        """
        text = self.node.kubectl("get", "--raw", "/metrics").stdout
        load = {}
        for name, labels in {
            "pods": ('resource="pods"', 'verb="LIST"'),
            "events": ('resource="events"', 'verb="LIST"'),
            "scale": ('resource="deployments"', 'subresource="scale"', 'verb="GET"'),
        }.items():
            found = {"count": 0.0, "sum": 0.0}
            for line in text.splitlines():
                kind = re.match(r"apiserver_response_sizes_(count|sum)\{", line)
                if kind and 'scope="cluster"' not in line and all(label in line for label in labels):
                    found[kind[1]] += float(line.split()[-1])
            load[name] = found["count"], found["sum"]
        return load


@contextmanager
def simulation(
    node: cluster.Node, image: str, namespace: str = NAMESPACE, nodes: int = NODES, idle_minutes: int = 1
) -> Iterator[Simulation]:
    """Yield a release of no workers, with a maximum of ten for each simulated node; remove everything at the end."""
    kwok = go_binaries.build(go_binaries.KWOK) / "kwok"
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="future-kubernetes-simulated-")))
        kubeconfig = folder / "kubeconfig"
        kubeconfig.write_text(json.dumps(_inside(json.loads(node.kubeconfig.read_text()))))
        stages = str(REPO / "bench/kwok/stages.yaml")
        # kwok starts first and ends last: no pod of a simulated node ends without it.
        _started(stack, node, folder / "kwok.log", [
            str(kwok), f"--kubeconfig={kubeconfig}", f"--config={stages}", f"--manage-nodes-with-label-selector={MARK}",
            "--node-port=0", "--node-lease-duration-seconds=40",
        ])  # fmt: skip
        _remove(node, namespace)
        stack.callback(_remove, node, namespace)
        _make_nodes(node, nodes)
        token = secrets.token_hex(32)
        (folder / "token").write_text(token)
        install(node, namespace, namespace, token, {
            "image": image, "idleMinutes": idle_minutes, "scheduler": {"homeGiB": 0},
            "worker": {"replicas": 0, "maxReplicas": nodes * WORKERS_PER_NODE, "nodeSelector": {MARK: "true"},
                       "tolerations": [{"key": MARK, "operator": "Exists", "effect": "NoSchedule"}],
                       "resources": {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"memory": "2Gi"}}},
        })  # fmt: skip
        log = folder / "peers.log"
        answer = node.kubectl(
            "-n", namespace, "exec", "-i", f"deploy/{namespace}-scheduler", "--", "Rscript", "-", input=_ANSWER
        ).stdout
        (folder / "answer").write_bytes(bytes.fromhex(answer))
        host = node.kubectl(
            "-n", namespace, "get", "pods", "-l", "component=scheduler", "-o", "jsonpath={.items[0].status.podIP}"
        ).stdout
        peers = _started(stack, node, log, [
            sys.executable, "-m", "bench.peers", str(kubeconfig), namespace, host, str(folder / "token"),
            str(folder / "answer"),
        ])  # fmt: skip
        yield Simulation(node, namespace, log, peers)


def _inside(config: dict[str, Any]) -> dict[str, Any]:
    """Return the kubeconfig for the node's own network, in which the stand-ins run, as workers would."""
    config["clusters"][0]["cluster"]["server"] = f"https://{NODE_IP}:6443"
    return config


def _started(stack: ExitStack, node: cluster.Node, log: Path, argv: list[str]) -> subprocess.Popen[bytes]:
    """Run a process in the node's network that ends with the block, or with this process."""
    entered = ["setpriv", "--pdeathsig=KILL", "nsenter", f"--target={node.pid}", "--net", "--", *argv]
    with log.open("wb") as output:
        process = subprocess.Popen(entered, cwd=REPO, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    stack.callback(process.wait)
    stack.callback(process.kill)
    return process


def _make_nodes(node: cluster.Node, number: int) -> None:
    """Return nodes that hold exactly ten workers each, so that one worker too many would stay pending."""
    room = {"cpu": str(WORKERS_PER_NODE), "memory": f"{WORKERS_PER_NODE * 2}Gi", "pods": "110"}
    items = [
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": f"simulated-{i:03}", "labels": {MARK: "true", "kubernetes.io/os": "linux"}},
            "spec": {"taints": [{"key": MARK, "effect": "NoSchedule"}]},
            "status": {"capacity": room, "allocatable": room},
        }
        for i in range(number)
    ]
    node.kubectl("create", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    node.kubectl("wait", "nodes", "-l", MARK, "--for=condition=Ready", f"--timeout={patience(60):.0f}s")


def _remove(node: cluster.Node, namespace: str) -> None:
    node.kubectl("delete", "namespace", namespace, "--ignore-not-found", f"--timeout={patience(180):.0f}s")
    node.kubectl("delete", "nodes", "-l", MARK, f"--timeout={patience(60):.0f}s")


def measure(made: Simulation, n: int) -> dict[str, str]:
    """Return one row of the table: from 0 workers to n, through their life, and back to 0."""
    row = {"workers": str(n)}
    load, busy = made.api_load(), made.sample()["cpu_seconds"]
    start, end, _ = made.scale(n)
    after, busy = made.api_load(), made.sample()["cpu_seconds"] - busy
    running = max(made.happened("running", start).values())
    row["pods run"] = f"{running - start:.1f} s"
    row["all connected, beyond"] = f"{end - running:.2f} s"
    row["CPU of the wait"] = f"{100 * busy / (end - start):.1f} %"
    row["API requests"] = f"{sum(after[k][0] - load[k][0] for k in load) / (end - start):.1f} /s"
    row["API bytes"] = f"{sum(after[k][1] - load[k][1] for k in load) / (end - start) / 1024:.0f} KiB/s"
    table, plan, again, futures = (float(word) for word in made.rscript(_SESSION.format(n=n)).stdout.split())
    row["workers()"] = f"{1000 * table:.0f} ms"
    row["plan()"], row["plan() again"] = f"{plan:.2f} s", f"{again:.3f} s"
    row["a future on each"] = f"{futures:.2f} s"
    made.wait("the workers to be back", 60, lambda: made.connected() == n)
    hung_up = time.time()
    made.peers.send_signal(signal.SIGHUP)
    made.wait("all to dial again", 60, lambda: len(made.happened("connected", hung_up)) == n)
    row["all dial at once"] = f"{max(made.happened('connected', hung_up).values()) - hung_up:.2f} s"
    idle = made.sample(30)
    row["idle CPU"], row["memory"] = f"{idle['cpu_percent']:.3f} %", f"{idle['mib']:.1f} MiB"
    row["/metrics"] = f"{1000 * idle['metrics_seconds']:.1f} ms"
    return row | to_none(made, start)


def to_none(made: Simulation, since: float) -> dict[str, str]:
    """Wait for the idle decision after `since`; return the row's cells about the time after it."""

    def told(text: str) -> float | None:
        at = made.said(text)
        return at if at and at > since else None

    decided = made.wait("the idle decision", 120, lambda: told("scaling to 0 (idleMinutes)"))
    load = made.api_load()
    lowered = made.wait("the number to be lowered", 120, lambda: told("lowered the number of workers to 0"))
    after = made.api_load()
    made.wait("the pods to be gone", 180, lambda: not made.pods())
    return {
        "idle: to the order": f"{lowered - decided:.1f} s",
        "idle: API bytes": f"{sum(after[k][1] - load[k][1] for k in load) / 2**20:.1f} MiB",
        "idle: to the last pod": f"{time.time() - decided:.0f} s",
    }


def main() -> int:
    """Install the release, measure each number of workers, print the table, and remove everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[10, 100, 300, 1000])
    arguments = parser.parse_args()
    node = cluster.running(os.environ.get("FUTURE_KUBERNETES_CLUSTER", "dev"))
    if node is None:
        print("error: stack dev does not run. Fix: make up", file=sys.stderr)
        return 1
    image = image_of_stack_dev(node)
    rows = []
    loads = []
    with simulation(node, image) as made:
        for n in arguments.workers:
            with step(f"{n} workers"):
                rows.append(measure(made, n))
                loads.append(os.getloadavg()[0])
        failed = made.happened("error")
    print(f"\nOn {os.cpu_count()} cores, load average {min(loads):.0f} to {max(loads):.0f}:\n")
    for key in rows[0]:
        print(f"| {key} | " + " | ".join(row[key] for row in rows) + " |")
    if failed:
        print(f"{len(failed)} writes of readiness failed", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
