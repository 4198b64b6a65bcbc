"""View of an R user of future.kubernetes on a real cluster: workers come, are lost, are run short of, and go."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.r_package import WRITE_PACKAGE
from common.errors import UserError
from common.patience import patience
from tests.e2e import world
from tests.e2e.conftest import Stack, another

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def elastic(stack: Stack, own_state: Path) -> Iterator[Stack]:
    """A stack of two workers that may become six."""
    with another(stack, own_state / "elastic", workers="2", maxWorkers="6", workerMemoryGiB="0.5") as other:
        other.up()
        yield other


BUSY = """
suppressMessages({library(future.kubernetes); library(future.apply)})
busy <- function(n) {
  for (i in 1:600) {
    now <- subset(workers(), state == "busy")$pod
    if (length(now) == n) return(now)
    Sys.sleep(0.05)
  }
  stop("not ", n, " busy workers but ", length(now))
}
"""


def r(cluster: Stack, code: str, timeout: float = 120) -> str:
    return cluster.rscript(BUSY + code, timeout)


def pods(cluster: Stack) -> set[str]:
    return {pod["metadata"]["name"] for pod in cluster.pods("worker")}


def test_the_plan_brings_the_workers_that_it_asks_for(elastic: Stack) -> None:
    printed = r(
        elastic,
        """
        plan(kubernetes, workers = 4)
        used <- unique(future_sapply(1:8, function(i) { Sys.sleep(0.5); Sys.info()[["nodename"]] }))
        stopifnot(setequal(used, workers()$pod), nbrOfWorkers() == 4L)
        cat("USED", used)
        """,
    )
    assert set(printed.split("USED ")[1].split()) == pods(elastic)
    assert elastic.replicas() == 4


def test_the_articles_line_takes_the_live_number_after_scaling(elastic: Stack) -> None:
    assert "N 4" in r(elastic, 'scale_workers(4); plan(cluster, manual = TRUE, quiet = TRUE); cat("N", nbrOfWorkers())')


def test_local_clusters_are_never_handed_a_remote_worker(elastic: Stack) -> None:
    code = """
        plan(multisession, workers = 2)
        here <- future_sapply(1:4, function(i) Sys.info()[["nodename"]])
        cl <- parallel::makeCluster(2)
        there <- unlist(parallel::clusterEvalQ(cl, Sys.info()[["nodename"]]))
        stopifnot(c(here, there) == Sys.info()[["nodename"]])
        cat("LOCAL")
    """
    assert "LOCAL" in r(elastic, code)


def test_future_of_a_deleted_pod_reruns_and_others_continue(elastic: Stack) -> None:
    # On a worker of the beginning a future waits until the test says go on. The lost one runs again on another.
    code = """
        plan(kubernetes, workers = 3)
        draw <- function(known) lapply(1:3, function(i) future({
          pod <- Sys.info()[["nodename"]]
          while (pod %in% known && !file.exists("/tmp/go-on")) Sys.sleep(0.1)
          list(pod, rnorm(1), Sys.getpid())
        }, seed = as.integer(i)))
        same <- value(draw(character()))
        known <- workers()$pod
        fs <- draw(known)
        victim <- busy(3)[1]
        writeLines(c(victim, setdiff(known, victim)), "/tmp/new")
        file.rename("/tmp/new", "/tmp/victim")
        again <- value(fs)
        stopifnot(identical(lapply(again, `[[`, 2), lapply(same, `[[`, 2)))
        cat("PODS", sapply(again, `[[`, 1))
    """
    scheduler = elastic.scheduler()["metadata"]["name"]
    elastic.kubectl("exec", scheduler, "--", "rm", "-f", "/tmp/victim")
    printed: list[str] = []
    thread = threading.Thread(target=lambda: printed.append(r(elastic, code)))
    thread.start()

    def said() -> list[str]:
        try:
            return elastic.kubectl("exec", scheduler, "--", "cat", "/tmp/victim").split()
        except UserError:
            return []

    lost, *others = elastic.wait("the futures to start", 60, said)
    elastic.kubectl("delete", "pod", lost, "--grace-period=0", "--force", "--wait=false")
    for pod in others:
        elastic.kubectl("exec", pod, "--", "touch", "/tmp/go-on")
    thread.join(patience(120))
    assert printed
    used = printed[0].split("PODS ")[1].split()
    assert lost not in used
    assert len(used) == 3


def test_a_future_that_runs_out_of_memory_is_named_so(elastic: Stack) -> None:
    code = """
        plan(kubernetes, workers = 2, retries = 0)
        hungry <- future({ x <- lapply(1:400, function(i) rnorm(2e6)); length(x) }, seed = TRUE)
        e <- tryCatch(value(hungry), error = identity)
        stopifnot(inherits(e, "KubernetesWorkerLostError"))
        cat("SAID", conditionMessage(e))
        stopifnot(value(future(1)) == 1)
    """
    said = r(elastic, code).split("SAID ")[1]
    assert "out of memory" in said
    assert "workerMemoryGiB" in said


def test_sessions_settings_hold_in_futures_not_the_pods(elastic: Stack) -> None:
    code = """
        stopifnot(length(future.kubernetes:::session_world()$env) == 0L)
        plan(kubernetes, workers = 1)
        pod <- value(future(Sys.getenv("POD_NAME")))
        Sys.setenv(TZ = "America/New_York", API_KEY = "k")
        seen <- value(future(c(Sys.getenv(c("API_KEY", "POD_NAME"), names = FALSE), format(as.POSIXct(0), "%H"))))
        stopifnot(identical(seen, c("k", pod, "19")), nzchar(pod))
        cat("GOOD")
    """
    assert "GOOD" in r(elastic, code)


def test_packages_install_into_the_home_where_r_is_not_interactive(elastic: Stack) -> None:
    code = """
        stopifnot(!interactive())
        install_package("mine", "f <- function() 42")
        stopifnot(mine::f() == 42, startsWith(find.package("mine"), path.expand("~")))
        cat("GOOD")
    """
    assert "GOOD" in r(elastic, WRITE_PACKAGE + code)


def test_memory_and_cpu_of_a_worker_at_work_are_shown(elastic: Stack) -> None:
    code = """
        plan(kubernetes, workers = 1)
        f <- future({ x <- rnorm(1e7); end <- Sys.time() + 60; while (Sys.time() < end) sum(x); 1 }, seed = TRUE)
        shown <- function() subset(workers(), memory > 100 & cpu > 0.05)
        for (i in 1:600) if (nrow(shown()) == 1L) break else Sys.sleep(0.1)
        metrics <- readLines("http://127.0.0.1:8785/metrics")
        cat("SHOWN", shown()$memory, shown()$cpu, grep(shown()$pod, metrics, value = TRUE))
        cancel(f)
    """
    printed = r(elastic, code)
    memory, cpu, said = printed.split("SHOWN ")[1].split(" ", 2)
    assert 100 < int(memory) < 512
    assert float(cpu) > 0.05
    assert "future_kubernetes_worker_memory_bytes" in said
    assert "future_kubernetes_worker_cpus" in said


def test_fewer_workers_leave_those_in_use_alone(elastic: Stack) -> None:
    code = """
        scale_workers(4)
        plan(kubernetes, workers = 2)
        fs <- lapply(1:2, function(i) future({ Sys.sleep(45); Sys.info()[["nodename"]] }))
        now <- busy(2)
        scale_workers(2)
        stopifnot(setequal(unlist(value(fs)), now))
        cat("KEPT")
    """
    assert "KEPT" in r(elastic, code, 150)
    elastic.wait("two workers to be left", 90, lambda: elastic.replicas() == 2)


def test_elastic_plan_grows_while_futures_queue_and_shrinks_when_idle(elastic: Stack) -> None:
    code = """
        scale_workers(1)
        globalCallingHandlers(message = function(m) if (grepl("was lost", conditionMessage(m))) stop(m))
        plan(kubernetes, workers = c(1, 4))
        where <- function(i) { Sys.sleep(3); Sys.info()[["nodename"]] }
        used <- function() unique(future_sapply(1:16, where, future.scheduling = 4))
        stopifnot(length(used()) == 4L)
        # These ask the broker, as anyone may: the plan itself acts only with its futures.
        given_back <- function() future.kubernetes:::kubernetes_status()$wanted == 1 && nrow(workers()) == 1L
        for (i in 1:300) if (given_back()) break else Sys.sleep(0.5)
        stopifnot(given_back(), value(future(42)) == 42, nrow(workers()) == 1L, length(used()) == 4L)
        cat("GOOD")
    """
    assert "GOOD" in r(elastic, code, 280)


def test_session_packages_files_and_setup_reach_workers_that_come_later(elastic: Stack) -> None:
    code = """
        install("laterpkg", "1.0", "f <- function() 'of the session'")
        writeLines("of the project", "later.txt")
        only <- function(n) {
          scale_workers(n)
          for (i in 1:300) if (nrow(workers()) == n) break else Sys.sleep(0.5)
          stopifnot(nrow(workers()) == n)
        }
        # Futures of the plan until `n` workers that are not in `known` have had one.
        use_new <- function(known, n) {
          later <- list()
          for (i in 1:20) {
            used <- value(lapply(1:8, function(i) future({
              Sys.sleep(1)
              c(Sys.info()[["nodename"]], laterpkg::f(), readLines("later.txt"), from_setup)
            })))
            for (one in used) if (!one[1] %in% known) later[[one[1]]] <- one[-1]
            if (length(later) >= n) break
          }
          stopifnot(length(later) == n)
          for (one in later) stopifnot(identical(one, c("of the session", "of the project", "set up")))
        }
        only(1)
        known <- workers()$pod
        plan(kubernetes, workers = c(1, 3), setup = quote(from_setup <- "set up"))
        stopifnot(value(future(laterpkg::f())) == "of the session")
        use_new(known, 2) # it grows
        plan(sequential)
        only(1)
        known <- workers()$pod
        plan(kubernetes, workers = 4, setup = quote(from_setup <- "set up"))
        use_new(known, 3)
        plan(sequential)
        forget("laterpkg")
    """
    world.r(elastic, code, 280)


def test_second_session_is_told_of_first_and_gets_its_share(elastic: Stack) -> None:
    scheduler = elastic.scheduler()["metadata"]["name"]
    elastic.kubectl("exec", scheduler, "--", "rm", "-f", "/tmp/go")
    held: list[str] = []
    first = """
        plan(kubernetes, workers = 6)
        fs <- lapply(1:600, function(i) future({ Sys.sleep(0.5); i }))
        while (!file.exists("/tmp/go")) Sys.sleep(0.1)
        cat("RUNS", sum(!resolved(fs)))
    """
    hold = threading.Thread(target=lambda: held.append(r(elastic, first, 200)))
    hold.start()
    elastic.wait("six busy workers", 120, lambda: r(elastic, 'cat(sum(workers()$state == "busy"))').strip() == "6")
    second = """
        told <- character()
        withCallingHandlers(plan(kubernetes, workers = 5), message = function(m) told <<- c(told, conditionMessage(m)))
        fs <- lapply(1:60, function(i) future({ Sys.sleep(0.5); i }))
        mine <- function() sum(workers()$session == Sys.getpid(), na.rm = TRUE)
        for (i in 1:300) if (mine() == 3L) break else Sys.sleep(0.1)
        stopifnot(mine() == 3L, identical(unlist(value(fs)), 1:60))
        file.create("/tmp/go")
        cat("N", nbrOfWorkers(), told)
    """
    printed = r(elastic, second)
    hold.join()
    assert "N 5 Other R sessions want 6 workers, and this release allows 6" in printed
    assert int(held[0].split("RUNS ")[1]) > 0, "the first session was at work all the time"


def test_image_that_cannot_be_pulled_is_reported_and_request_withdrawn(elastic: Stack) -> None:
    # Workers of the sessions before may still be in use for a moment, and a lower number spares them.
    elastic.wait("idle workers", 60, lambda: "busy" not in r(elastic, "cat(workers()$state)"))
    r(elastic, "scale_workers(2)")
    elastic.wait("two workers", 120, lambda: elastic.replicas() == 2 and len(pods(elastic)) == 2)
    name = elastic.workload
    before = elastic.kubectl("get", name, "-o", "jsonpath={.spec.template.spec.containers[0].image}")
    elastic.kubectl("set", "image", name, "*=registry.invalid/none:1")
    try:
        start = time.monotonic()
        code = """
            e <- tryCatch(suppressMessages(plan(kubernetes, workers = 4)), error = identity)
            stopifnot(inherits(e, "KubernetesUnavailableError"))
            cat("SAID", conditionMessage(e))
        """
        said = r(elastic, code).split("SAID ")[1]
        assert time.monotonic() - start < patience(110)  # without the reason it would wait until the time-out of r()
        assert "Pull" in said
        assert "registry.invalid" in said
        elastic.wait("nothing to stay asked for", 60, lambda: elastic.replicas() == 2)
    finally:
        elastic.kubectl("set", "image", name, f"*={before}")
        elastic.kubectl("rollout", "status", name, f"--timeout={patience(120):.0f}s")


def test_unused_workers_go_after_idle_minutes_and_come_back(elastic: Stack) -> None:
    config = elastic.kubectl("get", "configmaps", "-o", "name").split()
    name = next(line for line in config if line.endswith("-config"))
    elastic.kubectl("patch", name, "--type=merge", "-p", '{"data": {"idleMinutes": "0.2"}}')
    try:
        # kubelet takes a changed ConfigMap up within about a minute, or at the next change of the pod.
        scheduler = elastic.scheduler()["metadata"]["name"]
        elastic.kubectl("annotate", "pod", scheduler, "test/look-again=now", "--overwrite")
        elastic.wait("the workers to go", 240, lambda: elastic.replicas() == 0)
    finally:
        elastic.kubectl("patch", name, "--type=merge", "-p", '{"data": {"idleMinutes": "0"}}')
    assert "N 2" in r(elastic, 'plan(kubernetes, workers = 2); cat("N", nrow(workers()))')


def test_a_worker_without_the_token_is_not_let_in(elastic: Stack) -> None:
    scheduler = elastic.scheduler()["metadata"]["name"]
    code = """
import socket, ssl
sock = ssl._create_unverified_context().wrap_socket(socket.create_connection(("127.0.0.1", 8786)))
try:
    sock.sendall(b'{"op":"worker","pod":"intruder"}\\n')
    print("ANSWER", sock.recv(100))
except OSError:
    print("DROPPED")
"""
    answer = elastic.kubectl("exec", scheduler, "--", "python3", "-c", code)
    assert answer.strip() in {"ANSWER b''", "DROPPED"}
    assert "intruder" not in r(elastic, "print(workers()$pod)")
