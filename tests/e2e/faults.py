"""Faults of a cluster, and R programs that run beside a test while the faults last."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from typing import Any

from common.errors import UserError
from common.patience import patience
from tests.e2e.conftest import Stack

TELL = """
suppressMessages({library(future.kubernetes); library(future.apply)})
tell <- function(name, ...) {
  writeLines(paste(...), "/tmp/told/new")
  file.rename("/tmp/told/new", file.path("/tmp/told", name))
}
pod_of <- function(label) {
  for (i in 1:600) {
    pod <- workers()$pod[workers()$label == label]
    if (length(pod) == 1L) return(pod)
    Sys.sleep(0.05)
  }
  stop("future ", label, " does not run")
}
lost <- list(message = character(), at = numeric())
noting <- function(expr) withCallingHandlers(expr, message = function(m) {
  if (grepl("was lost", conditionMessage(m))) {
    lost$message <<- c(lost$message, conditionMessage(m))
    lost$at <<- c(lost$at, as.numeric(Sys.time()))
  }
})
"""


class Program:
    """An R program in the scheduler's pod that runs beside the test, and reports its steps."""

    def __init__(self, cluster: Stack, code: str, timeout: float = 120) -> None:
        self.cluster = cluster
        self.scheduler = name_of(cluster.scheduler())
        cluster.kubectl("exec", self.scheduler, "--", "sh", "-c", "rm -rf /tmp/told; mkdir /tmp/told")
        self._output = ""
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(TELL + code, timeout))
        self._thread.start()

    def _run(self, code: str, timeout: float) -> None:
        try:
            # Ended in the pod too: an R that goes on would hold the workers of the tests that follow.
            command = ["timeout", "-s", "KILL", str(patience(timeout)), "Rscript", "-"]
            self._output = self.cluster.kubectl("exec", "-i", self.scheduler, "--", *command, input=code)
        except Exception as error:
            self._error = error

    def told(self, name: str, seconds: float = 60) -> str:
        """Report of the program under that name."""

        def read() -> str:
            if self._error:
                raise self._error
            try:
                return self.cluster.kubectl("exec", self.scheduler, "--", "cat", f"/tmp/told/{name}").strip()
            except UserError:
                return ""

        return str(self.cluster.wait(f"the R program to tell {name!r}", seconds, read))

    def printed(self) -> str:
        """Its output, once it has ended."""
        self._thread.join()
        if self._error:
            raise self._error
        return self._output


def r(cluster: Stack, code: str) -> str:
    return Program(cluster, code).printed()


def name_of(pod: dict[str, Any]) -> str:
    return str(pod["metadata"]["name"])


def process_of(cluster: Stack, pod: str) -> str:
    """The PID of a pod's container, as the node counts."""
    told = cluster.kubectl("get", "pod", pod, "-o", "jsonpath={.status.containerStatuses[0].containerID}")
    container = told.removeprefix("containerd://")
    tasks = cluster.node.run("ctr", "-n", "k8s.io", "tasks", "list").stdout.splitlines()
    return next(line.split()[1] for line in tasks if line.startswith(container))


def in_network_of(cluster: Stack, pod: str, *command: str) -> None:
    cluster.node.run("nsenter", f"--net=/proc/{process_of(cluster, pod)}/ns/net", *command)


def three_ready(cluster: Stack) -> None:
    """Back to where each test starts, whatever the one before has left.

    Pods on their way out count too: until they are gone, the broker has their workers and a quota their room.
    """
    cluster.kubectl("scale", cluster.workload, "--replicas=3")

    def settled() -> bool:
        pods = cluster.pods("worker", leaving=True)
        ready = [c["status"] for pod in pods for c in pod["status"].get("conditions", []) if c["type"] == "Ready"]
        return len(pods) == 3 and ready == ["True"] * 3

    cluster.wait("three workers", 120, settled)


def evict(cluster: Stack, pod: str, grace_seconds: int | None = None) -> None:
    """As `kubectl drain` does; the kubelet then sends SIGTERM, as it does at a spot machine's notice."""
    options = {} if grace_seconds is None else {"deleteOptions": {"gracePeriodSeconds": grace_seconds}}
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}, **options}
    path = f"/api/v1/namespaces/{cluster.namespace}/pods/{pod}/eviction"
    cluster.node.kubectl("create", "--raw", path, "-f", "-", input=json.dumps(body))


@contextlib.contextmanager
def no_role(cluster: Stack) -> Iterator[None]:
    """The scheduler's account has no rights meanwhile, as the API server sees it too."""
    account = cluster.scheduler()["spec"]["serviceAccountName"]
    user = f"--as=system:serviceaccount:{cluster.namespace}:{account}"

    def may() -> bool:
        try:
            return "yes" in cluster.kubectl("auth", "can-i", "list", "pods", user)
        except UserError:  # the status by which kubectl says no
            return False

    assert may()
    binding = cluster.kubectl("get", "rolebindings", "-o", "name").split()[0]
    kept = json.loads(cluster.kubectl("get", binding, "-o", "json"))
    for field in ("uid", "resourceVersion", "creationTimestamp"):
        kept["metadata"].pop(field, None)
    cluster.kubectl("delete", binding)
    try:
        cluster.wait("the rights to be gone", 30, lambda: not may())
        yield
    finally:
        cluster.kubectl("apply", "-f", "-", input=json.dumps(kept))
        cluster.wait("the rights to be back", 30, may)


@contextlib.contextmanager
def no_room(cluster: Stack) -> Iterator[None]:
    """The node takes no further pod."""
    node = cluster.node.kubectl("get", "nodes", "-o", "name").stdout.strip()
    cluster.node.kubectl("cordon", node)
    try:
        yield
    finally:
        cluster.node.kubectl("uncordon", node)


@contextlib.contextmanager
def no_api(cluster: Stack) -> Iterator[None]:
    """Lose on the way what the scheduler's pod sends to the Kubernetes API."""
    pod = name_of(cluster.scheduler())
    address = cluster.node.kubectl("get", "service", "kubernetes", "-o", "jsonpath={.spec.clusterIP}").stdout
    rule = ["OUTPUT", "-d", address, "-j", "DROP"]
    in_network_of(cluster, pod, "iptables", "-A", *rule)
    try:
        yield
    finally:
        in_network_of(cluster, pod, "iptables", "-D", *rule)
