"""What it costs to keep workers waiting, and how soon plan() has them: this project's beside the article's worker line.

    python bench/waiting.py [--workers 40] [--stock 8] [--idle 600]

Both wait in one namespace of stack dev's cluster (`make up` first) at the same time, in pods of the same image. CPU is
what kubelet accounts to the worker pods over the last minute of waiting, in percent of one core. The article's workers
are fewer by default: each that has waited long takes up to half that time again to be noticed.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from local import cluster
from local.errors import LocalError
from local.paths import REPO
from local.progress import step

NAMESPACE = "bench-waiting"
PORT = 11562
STOCK_LIMIT_SECONDS = 900

# The article's worker, as its chart starts it: base R retries with a delay that grows by half each time.
STOCK_LINE = (
    "Rscript --default-packages=datasets,utils,grDevices,graphics,stats,methods -e 'parallel:::.workRSOCK()' "
    f"MASTER=stock PORT={PORT} OUT=/dev/null SETUPTIMEOUT=2592000 TIMEOUT=2592000 XDR=TRUE"
)
OURS_CODE = """
library(future)
started <- Sys.time()
plan(cluster, manual = TRUE, quiet = TRUE)
cat("RESULT", as.numeric(Sys.time() - started, units = "secs"), nbrOfWorkers(), "\\n")
"""
STOCK_CODE = """
library(future)
started <- Sys.time()
cl <- parallelly::makeClusterPSOCK(I({n}), manual = TRUE, quiet = TRUE, port = {port})
plan(cluster, workers = cl)
cat("RESULT", as.numeric(Sys.time() - started, units = "secs"), nbrOfWorkers(), "\\n")
"""


def main() -> int:
    """Sets both up, waits, measures, prints the table, and removes all again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=40)
    parser.add_argument("--stock", type=int, default=8)
    parser.add_argument("--idle", type=int, default=600, help="seconds of waiting before plan()")
    arguments = parser.parse_args()
    node = cluster.running("dev")
    if node is None:
        print("error: stack dev does not run. Fix: make up", file=sys.stderr)
        return 1
    try:
        with step("Starting the workers of both"):
            set_up(node, arguments.workers, arguments.stock)
        with step(f"Waiting {arguments.idle} s") as progress:
            ends = time.monotonic() + arguments.idle
            while time.monotonic() < ends - 60:
                time.sleep(5)
                progress.update(arguments.idle - (ends - time.monotonic()), arguments.idle)
            before, at = cpu_seconds(node), time.monotonic()
            time.sleep(60)
            after, lasted = cpu_seconds(node), time.monotonic() - at
        idle = {kind: 100 * (after[kind] - before[kind]) / lasted for kind in before}
        ours = plan_seconds(node, "deploy/ours-scheduler", OURS_CODE)
        stock = plan_seconds(node, "deploy/stock", STOCK_CODE.format(n=arguments.stock, port=PORT))
    finally:
        with step("Removing them"):
            node.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=120s")
    print(f"\nAfter {arguments.idle} s of waiting, on {os.cpu_count()} cores:\n")
    print("| | workers | plan() | idle CPU of all, % of one core |\n| --- | --- | --- | --- |")
    print(f"| this project | {ours[1]} | {ours[0]:.2f} s | {idle['ours']:.1f} |")
    took = f"{stock[0]:.1f} s" if stock[1] else f"none after {STOCK_LIMIT_SECONDS} s"
    print(f"| the article's worker line | {stock[1] or arguments.stock} | {took} | {idle['stock']:.1f} |")
    if stock[1]:
        ratio = (stock[0] / stock[1]) / (ours[0] / ours[1])
        print(f"\nplan(), per worker: the article's line takes {ratio:.0f} times as long")
    return 0


def set_up(node: cluster.Node, workers: int, stock: int) -> None:
    """The project's release, and the article's workers with a scheduler of their own."""
    found = node.kubectl("get", "deployments", "-A", "-l", "app.kubernetes.io/component=scheduler", "-o", "json")
    deployments = json.loads(found.stdout)["items"]
    if not deployments:
        raise LocalError("stack dev has no scheduler whose image could be taken. Fix: make up")
    image = deployments[0]["spec"]["template"]["spec"]["containers"][0]["image"]
    node.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=120s")
    node.kubectl("create", "namespace", NAMESPACE)
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "bench", "namespace": NAMESPACE},
        "stringData": {"password": secrets.token_urlsafe(24), "token": secrets.token_urlsafe(48)},
    }
    node.kubectl("apply", "-f", "-", input=json.dumps(secret))
    node.kubectl(
        "apply", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": stock_objects(image, stock)})
    )
    values = {
        "image": image, "ide": "jupyterlab", "fullnameOverride": "ours", "auth": {"existingSecret": "bench"},
        "scheduler": {"homeGiB": 0},
        "worker": {"replicas": workers, "maxReplicas": workers,
                   "resources": {"requests": {"cpu": "5m", "memory": "64Mi"}, "limits": {"memory": "1Gi"}}},
    }  # fmt: skip
    subprocess.run(
        [str(node.programs / "helm"), "--kubeconfig", str(node.kubeconfig), "-n", NAMESPACE, "install", "ours",
         str(REPO / "chart"), "--wait", "--timeout", "5m", "-f", "-"],
        input=json.dumps(values), text=True, check=True, capture_output=True,
    )  # fmt: skip
    node.kubectl("-n", NAMESPACE, "rollout", "status", "deployment/stock-worker", "--timeout=300s")


def stock_objects(image: str, workers: int) -> list[dict[str, object]]:
    """A scheduler pod that runs nothing but what is sent to it, its service, and the article's workers."""

    def deployment(name: str, replicas: int, command: list[str]) -> dict[str, object]:
        container = {
            "name": "r",
            "image": image,
            "command": command,
            "resources": {"requests": {"cpu": "5m", "memory": "64Mi"}},
        }
        return {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": {"app": name}},
                "template": {
                    "metadata": {"labels": {"app": name}},
                    "spec": {
                        "containers": [container],
                        "automountServiceAccountToken": False,
                        "terminationGracePeriodSeconds": 0,
                    },
                },
            },
        }

    service: dict[str, object] = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "stock", "namespace": NAMESPACE},
        "spec": {"clusterIP": "None", "selector": {"app": "stock"}, "ports": [{"port": PORT}]},
    }
    return [
        service,
        deployment("stock", 1, ["sleep", "infinity"]),
        deployment("stock-worker", workers, ["sh", "-c", f"exec {STOCK_LINE}"]),
    ]


def cpu_seconds(node: cluster.Node) -> dict[str, float]:
    """CPU seconds that the worker pods of each kind have used so far, as kubelet accounts them."""
    summary = json.loads(node.kubectl("get", "--raw", "/api/v1/nodes/node/proxy/stats/summary").stdout)
    used = {"ours": 0.0, "stock": 0.0}
    for pod in summary["pods"]:
        name, namespace = pod["podRef"]["name"], pod["podRef"]["namespace"]
        for kind in used:
            if namespace == NAMESPACE and name.startswith(f"{kind}-worker-"):
                used[kind] += pod["cpu"]["usageCoreNanoSeconds"] / 1e9
    return used


def plan_seconds(node: cluster.Node, where: str, code: str) -> tuple[float, int]:
    """Seconds that plan() took, and the workers that it had; (0, 0) where it did not come to an end."""
    with step(f"plan() in {where}"):
        try:
            ran = node.kubectl(
                "-n", NAMESPACE, "exec", "-i", where, "--", "Rscript", "-", input=code, timeout=STOCK_LIMIT_SECONDS
            )
        except (LocalError, subprocess.TimeoutExpired):
            return 0.0, 0
    fields = next(line for line in ran.stdout.splitlines() if line.startswith("RESULT")).split()
    return float(fields[1]), int(fields[2])


if __name__ == "__main__":
    sys.exit(main())
