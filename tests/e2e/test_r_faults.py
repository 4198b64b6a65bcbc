"""Workers are lost, R is interrupted, Kubernetes refuses: what an R user sees of it on a real cluster.

Times that R users are promised are printed, and bound by what a noisy machine takes.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.errors import UserError
from local import cluster, image
from tests.e2e.conftest import Stack

pytestmark = pytest.mark.timeout(300)

CLUSTER = "faults"
OUTAGE_SECONDS = 60
"""How long the Kubernetes API is out of reach; a request times out after 5."""

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


@pytest.fixture(scope="module")
def faulty(own_state: Path) -> Iterator[Stack]:
    """A stack of three workers that may become six, on a cluster of its own: some faults are those of the node."""
    cluster.stop(CLUSTER)
    node = cluster.start(CLUSTER)
    reference = image.push(node, image.ImageRequest())
    config = {"image": reference, "namespace": "faulty", "workers": "3", "maxWorkers": "6", "workerMemoryGiB": "0.5"}
    other = Stack(node, own_state / "faulty", config)
    other.up()
    yield other
    cluster.stop(CLUSTER)


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
            command = ["timeout", "-s", "KILL", str(timeout), "Rscript", "-"]
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
    """Back to where each test starts, whatever the one before has left."""
    cluster.kubectl("scale", cluster.workload, "--replicas=3")

    def settled() -> bool:
        pods = cluster.pods("worker")
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


def test_a_network_that_falls_silent_is_noticed_and_disturbs_no_other_future(faulty: Stack) -> None:
    program = Program(
        faulty,
        """
        plan(kubernetes, workers = 3)
        job <- function(seconds) {
          started <- Sys.time()
          Sys.sleep(seconds)
          list(pod = Sys.info()[["nodename"]], started = started)
        }
        fs <- list(future(job(12), label = "first"), future(job(28)))
        tell("victim", pod_of("first"))
        noting(vs <- value(fs))
        tell("noticed", sprintf("%.2f", lost$at[1]), vs[[1]]$pod, lost$message[1])
        stopifnot(length(lost$at) == 1L, as.numeric(vs[[2]]$started) < lost$at[1])
        for (i in 1:120) if (nrow(workers()) == 3L) break else { Sys.sleep(0.5); value(future(1)) }
        cat("PODS", workers()$pod)
        """,
    )
    victim = program.told("victim")
    cut = time.time()
    in_network_of(faulty, victim, "ip", "link", "set", "eth0", "down")
    at, again, said = program.told("noticed", 90).split(" ", 2)
    faulty.kubectl("delete", "pod", victim, "--grace-period=0", "--force", "--wait=false")
    print(f"a silent network was noticed after {float(at) - cut:.1f} s: {said}")
    assert float(at) - cut < 20, "15 s are promised; a noisy machine may add to it"
    assert again != victim
    assert "fell silent" in said
    pods = program.printed().split("PODS ")[1].split()
    assert len(pods) == 3
    assert victim not in pods


def test_a_drained_worker_finishes_its_future_or_hands_it_back_and_is_replaced(faulty: Stack) -> None:
    three_ready(faulty)
    program = Program(
        faulty,
        """
        plan(kubernetes, workers = 2, retries = 0) # what a drain ends does not count
        end <- Sys.time() + 14
        short <- future({ Sys.sleep(7); Sys.info()[["nodename"]] }, label = "short")
        long <- future(
          { Sys.sleep(max(0, as.numeric(end - Sys.time(), units = "secs"))); Sys.info()[["nodename"]] },
          label = "long"
        )
        tell("busy", pod_of("short"), pod_of("long"))
        noting(vs <- value(list(short, long)))
        stopifnot(length(lost$message) == 1L)
        cat("DONE", unlist(vs), lost$message)
        """,
    )
    short, long = program.told("busy").split()
    evict(faulty, short)
    evict(faulty, long, grace_seconds=3)
    finished, again, said = program.printed().split("DONE ")[1].split(" ", 2)
    assert finished == short
    assert again not in (short, long)
    assert f"Worker {long} was lost" in said
    assert "told to go" in said
    three_ready(faulty)
    assert not {short, long} & {name_of(pod) for pod in faulty.pods("worker")}


def test_a_killed_workers_future_is_done_again_soon(faulty: Stack) -> None:
    three_ready(faulty)
    program = Program(
        faulty,
        """
        plan(kubernetes, workers = 2)
        # Three seconds, once it is run again; until then long enough to be found and killed.
        again_from <- Sys.time() + 5
        f <- future({ Sys.sleep(if (Sys.time() < again_from) 60 else 3); Sys.info()[["nodename"]] }, label = "killed")
        tell("victim", pod_of("killed"))
        noting(again <- value(f))
        tell("done", sprintf("%.2f", as.numeric(Sys.time())), again, lost$message)
        """,
    )
    victim = program.told("victim")
    process = process_of(faulty, victim)
    time.sleep(6)
    killed = time.time()
    faulty.node.run("sh", "-c", f"kill -9 {process}")
    at, again, said = program.told("done", 60).split(" ", 2)
    program.printed()
    print(f"a killed worker's future of 3 s was done again after {float(at) - killed:.1f} s")
    assert again != victim
    assert "its container ended with exit status 137" in said
    assert float(at) - killed < 12, "5 s and its own 3 s are promised; a noisy machine may add to it"


def test_a_future_that_loses_every_worker_is_given_up_with_what_happened_to_each(faulty: Stack) -> None:
    printed = r(
        faulty,
        """
        plan(kubernetes, workers = 2, retries = 1)
        f <- future({ tools::pskill(Sys.getpid(), 9); Sys.sleep(9) }, label = "doomed")
        e <- tryCatch(value(f), error = identity)
        stopifnot(inherits(e, "KubernetesWorkerLostError"), value(future(1)) == 1)
        cat("SAID", conditionMessage(e))
        """,
    )
    said = printed.split("SAID ")[1]
    assert "future doomed was lost 2 times" in said
    assert said.count("signal 9") == 2


def test_ctrl_c_returns_at_once_from_every_wait_and_leaves_nothing_half_done(faulty: Stack) -> None:
    three_ready(faulty)
    code = """
        interrupted <- function(what, expr, after = value(future(6 * 7))) {
          unlink("/tmp/when")
          # Renamed into its place, so that it is never read half-written.
          system(sprintf("(sleep 2; date +%%s.%%N > /tmp/when.new; kill -INT %d; mv /tmp/when.new /tmp/when) &",
                         Sys.getpid()))
          how <- tryCatch({ force(expr); "returned" }, interrupt = function(e) "interrupted", error = conditionMessage)
          at <- as.numeric(Sys.time())
          while (!file.exists("/tmp/when")) Sys.sleep(0.05)
          took <- at - as.numeric(readLines("/tmp/when"))
          wanted <- future.kubernetes:::kubernetes_status()$wanted
          said <- sprintf("%s: %s after %.2f s, %d wanted,", what, how, took, wanted)
          cat(said, if (identical(after, 42)) "usable" else "broken", "\n")
        }
        interrupted("plan", plan(kubernetes, workers = 6), after = 42)
        # The same words again: future would take them for the plan that there is already.
        interrupted("same-plan", plan(kubernetes, workers = 6), after = {
          plan(kubernetes, workers = 3)
          value(future(6 * 7))
        })

        slow <- future({ Sys.sleep(5); 7 })
        interrupted("value", value(slow))
        stopifnot(value(slow) == 7)

        fs <- lapply(1:3, function(i) future(Sys.sleep(4)))
        interrupted("queue", value(future(1)))
        invisible(value(fs))

        big <- raw(2e8)
        interrupted("send", repeat future(length(big)))
        rm(big)
        invisible(gc())
        interrupted("receive", repeat value(future(raw(2e8))))

        interrupted("scale", scale_workers(6))
        stopifnot(nbrOfWorkers() == 3L)
        plan(sequential)

        held <- parallelly::makeClusterPSOCK(I(3), manual = TRUE, quiet = TRUE)
        plan(sequential)
        interrupted("article", plan(cluster, workers = I(1), manual = TRUE, quiet = TRUE), after = 42)
        parallel::stopCluster(held)

        plan(kubernetes, workers = 2)
        stopifnot(unlist(value(lapply(1:4, function(i) future(i)))) == 1:4, nbrOfWorkers() == 2L)
        cat("SESSION usable\n")
    """
    with no_room(faulty):
        printed = r(faulty, code)
    print(printed)
    lines = dict(line.split(": ", 1) for line in printed.splitlines() if " wanted, " in line)
    assert set(lines) == {"plan", "same-plan", "value", "queue", "send", "receive", "scale", "article"}
    for what, line in lines.items():
        assert line.startswith("interrupted after "), (what, line)
        assert float(line.split()[2]) < 1.5, (what, line)
        assert "3 wanted, usable" in line, (what, line)
    assert "SESSION usable" in printed


def test_bad_input_is_told_by_a_condition_of_its_own_and_the_session_stays_usable(faulty: Stack) -> None:
    three_ready(faulty)
    printed = r(
        faulty,
        """
        said <- function(what, expr) {
          e <- tryCatch({ force(expr); simpleError("nothing") }, error = identity)
          cat(what, class(e)[1], "|", conditionMessage(e), "\n")
        }
        for (bad in list(0, -1, NA, "four", 1e6)) said(paste0("workers=", bad), plan(kubernetes, workers = bad))
        said("once-more", plan(kubernetes, workers = 1e6))
        options(future.globals.maxSize = 1e6)
        plan(kubernetes, workers = 2, retries = 0)
        said("package", value(future(1, packages = "notThere")))
        big <- raw(2e6)
        said("large", value(future(length(big))))
        options(future.globals.maxSize = +Inf)
        plan(kubernetes, workers = 2, retries = 0, maxSizeOfObjects = +Inf)
        big <- raw(6e8)
        said("too-large-for-the-worker", value(future(length(big))))
        stopifnot(unlist(value(lapply(1:2, function(i) future(i)))) == 1:2)
        cat("SESSION usable")
        """,
    )
    assert "SESSION usable" in printed
    told = {line.split(" ", 1)[0]: line.split(" ", 1)[1] for line in printed.splitlines() if " | " in line}
    for bad in ("0", "-1", "NA", "four"):
        assert told[f"workers={bad}"].startswith("KubernetesWorkersError | The number of workers is"), bad
    for what in ("workers=1e+06", "once-more"):
        assert told[what].startswith("KubernetesMaximumError | 1000000 workers were asked for; this release allows")
    assert told["package"].startswith("KubernetesPackageError | ")
    assert "notThere" in told["package"]
    assert "rPackages" in told["package"]
    assert told["large"].startswith("KubernetesGlobalsError | ")
    assert "big" in told["large"]
    assert told["too-large-for-the-worker"].startswith("KubernetesWorkerLostError | ")
    assert "out of memory" in told["too-large-for-the-worker"]


def test_without_its_role_the_plan_takes_the_workers_that_are_there_and_no_more(faulty: Stack) -> None:
    three_ready(faulty)
    code = """
        plan(kubernetes, workers = 2)
        e <- tryCatch(plan(kubernetes, workers = 5), error = identity)
        more <- tryCatch(scale_workers(4), error = identity)
        plan(kubernetes, workers = 3)
        cat("SAID", value(future(6 * 7)), class(e)[1], class(more)[1], conditionMessage(e))
    """
    with no_role(faulty):
        said = r(faulty, code).split("SAID ")[1]
    assert said.split()[:3] == ["42", "KubernetesPermissionError", "KubernetesPermissionError"]
    assert "Its Role is" in said
    assert faulty.replicas() == 3
    assert "MORE 4" in r(faulty, 'cat("MORE", scale_workers(4))')


def test_an_api_that_is_out_of_reach_is_told_and_the_wait_goes_on_when_it_is_back(faulty: Stack) -> None:
    three_ready(faulty)
    code = """
        said <- character()
        noted <- function(expr) withCallingHandlers(expr, message = function(m) said <<- c(said, conditionMessage(m)))
        tell("waiting", "now")
        noted(plan(kubernetes, workers = 5))
        stopifnot(nrow(workers()) == 5L, value(future(6 * 7)) == 42)
        cat("SAID", said)
    """
    other = """
        start <- Sys.time()
        e <- tryCatch(plan(kubernetes, workers = 6), error = identity)
        cat(class(e)[1], round(as.numeric(Sys.time() - start, units = "secs"), 1), conditionMessage(e), "\n")
        plan(kubernetes, workers = 2)
        cat("USABLE", value(future(6 * 7)))
    """
    with no_room(faulty):
        program = Program(faulty, code, 240)
        program.told("waiting")
        faulty.wait("two more workers to be asked for", 30, lambda: faulty.replicas() == 5)
        with no_api(faulty):
            cut = time.monotonic()
            meanwhile = faulty.rscript(f"library(future.kubernetes)\n{other}")
            time.sleep(max(0.0, OUTAGE_SECONDS - (time.monotonic() - cut)))
    print(meanwhile)
    assert meanwhile.startswith("KubernetesUnreachableError ")
    assert float(meanwhile.split()[1]) < 10
    assert "USABLE 42" in meanwhile
    assert "the Kubernetes API does not answer" in program.printed().split("SAID ")[1]


def test_a_quota_and_a_full_node_are_named_and_nothing_stays_asked_for(faulty: Stack) -> None:
    three_ready(faulty)
    code = """
        said <- character()
        start <- Sys.time()
        after <- function() round(as.numeric(Sys.time() - start, units = "secs"), 1)
        e <- tryCatch(withCallingHandlers(plan(kubernetes, workers = 5), message = function(m) {
          said <<- c(said, paste(after(), conditionMessage(m)))
        }), KubernetesUnavailableError = identity)
        cat("ENDED", after(), conditionMessage(e), "\n")
        cat("SAID", said[grepl("none fits", said)][1])
    """
    faulty.kubectl("create", "quota", "small", "--hard=pods=4")
    try:
        quota = r(faulty, code)
    finally:
        faulty.kubectl("delete", "quota", "small")
    assert faulty.replicas() == 3
    with no_room(faulty):
        full = r(faulty, code)
    print(quota, full)
    assert float(quota.split("ENDED ")[1].split()[0]) < 20
    assert "exceeded quota: small" in quota
    assert float(full.split("SAID ")[1].split()[0]) < 10, "the reason is in the live line at once"
    assert "unschedulable" in full.split("SAID ")[1]
    assert "no node fits" in full.split("ENDED ")[1]
    assert faulty.replicas() == 3
