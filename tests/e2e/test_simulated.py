"""Hundreds of workers on simulated nodes: R, broker and chart are real, kwok and stand-ins play the rest."""

from __future__ import annotations

import json
import re
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from bench.simulated import WORKERS_PER_NODE, Simulation, simulation
from common.patience import patience
from tests.e2e.conftest import Stack

pytestmark = pytest.mark.timeout(600)

NODES = 30
WORKERS = NODES * WORKERS_PER_NODE
LINE = re.compile(r"300 workers: (\d+) connected(, \d+ starting)?(, \d+ waiting for a node .*)?(, \d+ to be created)?")


@pytest.fixture(scope="module")
def simulated(stack: Stack) -> Iterator[Simulation]:
    """A release without workers, and nodes that hold 300 of them and not one more."""
    with simulation(stack.node, stack.config["image"], namespace="simulated", nodes=NODES) as made:
        yield made
        assert not made.happened("error")


def settled(made: Simulation, n: int) -> list[dict[str, Any]]:
    """The pods, once there are n and as many workers wait."""

    def found() -> list[dict[str, Any]] | None:
        pods = made.pods()
        return pods if len(pods) == n == made.connected() else None

    return list(made.wait(f"{n} workers", 120, found))


def test_all_requested_workers_come_while_a_line_shows_progress(simulated: Simulation) -> None:
    start, end, lines = simulated.scale(WORKERS)
    assert len(set(lines)) >= 3, lines
    # A line says so where the API server is too busy with 300 pods to answer in time.
    told = [LINE.fullmatch(line) for line in lines if "the Kubernetes API does not answer" not in line]
    assert all(told), lines
    connected = [int(match[1]) for match in told if match]
    assert connected == sorted(connected)
    assert any(match[2] for match in told if match)
    assert any(match[4] for match in told if match)
    running = simulated.happened("running", start)
    assert len(running) == WORKERS
    assert end - max(running.values()) < patience(10), "what is waited for are the pods, not the broker"
    pods = settled(simulated, WORKERS)
    assert Counter(pod["status"]["phase"] for pod in pods) == {"Running": WORKERS}
    places = Counter(pod["spec"]["nodeName"] for pod in pods)
    assert set(places.values()) == {WORKERS_PER_NODE}
    assert all(node.startswith("simulated-") for node in places)


def test_one_session_uses_more_workers_than_rs_default_connections(simulated: Simulation) -> None:
    simulated.scale(WORKERS)
    settled(simulated, WORKERS)
    simulated.peers.send_signal(signal.SIGUSR1)
    code = f"""
        suppressMessages(library(future.kubernetes))
        plan(kubernetes, workers = {WORKERS})
        cat(nbrOfWorkers(), sum(unlist(value(lapply(1:{WORKERS}, function(i) future(i))))))
    """
    printed: list[str] = []
    program = threading.Thread(target=lambda: printed.append(simulated.rscript(code).stdout))
    program.start()
    simulated.wait("all workers to have a future", 120, lambda: simulated.connected("busy") == WORKERS)
    simulated.peers.send_signal(signal.SIGUSR2)
    program.join(patience(120))
    assert printed[0].split() == [str(WORKERS), str(42 * WORKERS)]
    settled(simulated, WORKERS)


def test_fewer_workers_ends_only_the_released_pods(simulated: Simulation) -> None:
    before, _, _ = simulated.scale(WORKERS)
    settled(simulated, WORKERS)
    simulated.scale(100)
    settled(simulated, 100)
    let_go = simulated.happened("retired", before)
    assert len(let_go) == WORKERS - 100
    assert set(let_go) == set(simulated.happened("gone", before))


def test_unused_workers_all_go_after_the_idle_minutes(simulated: Simulation) -> None:
    simulated.scale(100)
    settled(simulated, 100)
    _, active, _ = simulated.scale(100)
    decided = simulated.wait(
        "the idle decision", 120, lambda: (at := simulated.said("scaling to 0 (idleMinutes)")) and at > active and at
    )
    assert 55 < decided - active < patience(90)
    simulated.wait("all pods to be gone", 120, lambda: not simulated.pods())
    assert len(simulated.happened("retired", active)) == 100
    found = json.loads(simulated.kubectl("get", "deployment", f"{simulated.namespace}-worker", "-o", "json").stdout)
    assert not found["spec"]["replicas"]
    assert not found["status"].get("unavailableReplicas")
