"""Task mode: sessions that end in the middle of a word, workers that stop, clocks that jump, and very many tasks."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from image.broker.plans import REPEATS

from . import jumping
from .conftest import Bed, restarted, wait_for
from .kubernetes_api import Api
from .r_session import PlanSession
from .sessions import gone, running

MANY = 10_000


@pytest.mark.parametrize(
    "sent", [b"submit 2 50", b"submit 2 5000000 - ", b"submit 2 5000000 -\nxxxx", b"object ab 9000000\nx"]
)
def test_session_killed_in_mid_submit_leaves_nothing_behind(bed: Bed, sent: bytes) -> None:
    bed.worker("w1")
    session = gone()
    plan = bed.plan(pid=session.pid)
    plan.submit("sleep 600")
    wait_for(lambda: running(bed) == {"w1": session.pid})
    plan.socket.sendall(sent)
    session.kill()
    session.wait()
    plan.socket.close()
    wait_for(lambda: bed.state("w1") == "idle")
    assert bed.ask(f"futures {session.pid}") == "ok 0"
    with bed.plan() as other:
        assert other.run("sleep 0") == "slept"
    assert not list(Path(bed.temporary).glob("*.result"))


def test_session_that_returns_after_half_a_submit_sends_it_again(bed: Bed) -> None:
    bed.worker("w1")
    plan = bed.plan()
    assert plan.run("sleep 0") == "slept"
    plan.send("got 1")
    plan.socket.sendall(b"submit 2 7 - \nsle")
    plan.socket.close()
    with bed.plan(key=plan.key) as again:
        again.send("hold 2")
        assert again.hear() == (["unknown", "2"], b"")
        assert again.result(again.submit("sleep 0", 2)) == "slept\n"
        assert again.told == []


def test_stopped_worker_holds_only_its_task_until_killed(bed: Bed, tmp_path: Path) -> None:
    """Its node acknowledges what is sent, so only the kubelet notices: it kills an agent that does not answer."""
    go = tmp_path / "go"
    process = bed.worker("w1")
    with bed.plan(2) as plan:
        plan.submit(f"until {go}")
        plan.submit("sleep 600")
        wait_for(lambda: running(bed))
        process.end(signal.SIGSTOP)
        bed.start_worker("w2")
        wait_for(lambda: len(running(bed)) == 2)
        plan.send("cancel 2")
        numbers = [plan.submit("sleep 0") for _ in range(20)]
        assert {plan.result(number) for number in numbers} == {"slept\n"}
        assert plan.told == [], "no worker is blamed"
        process.end(signal.SIGKILL)
        wait_for(lambda: "w2" in running(bed))
        go.touch()
        assert plan.result(1) == "there\n"
        assert plan.told[0].startswith("again 1 w1 ")


def test_cancelled_task_of_a_stopped_worker_is_gone_at_once(bed: Bed) -> None:
    process = bed.worker("w1")
    with bed.plan() as plan:
        plan.submit("sleep 600")
        wait_for(lambda: running(bed))
        process.end(signal.SIGSTOP)
        plan.send("cancel 1")
        wait_for(lambda: bed.ask(f"futures {os.getpid()}") == "ok 0")
        plan.submit("sleep 0")
        bed.worker("w2")
        assert plan.result(2) == "slept\n"
        process.end(signal.SIGCONT)
        wait_for(lambda: bed.state("w1") == "idle")
        assert bed.table()["w1"]["losses"] == 0


@pytest.mark.parametrize("jump", [-90_000, 90_000])
def test_clock_that_jumps_disturbs_no_task(bed: Bed, api: Api, tmp_path: Path, jump: int) -> None:
    clock = tmp_path / "clock"
    restarted(bed, api, tmp_path, TEST_FIRST=jumping.first(clock), FUTURE_KUBERNETES_IDLE_CHECK_SECONDS="0.1")
    (tmp_path / "config" / "idleMinutes").write_text("60")
    bed.worker("r-worker-a", TEST_FIRST=jumping.first(clock))
    bed.worker("r-worker-b", TEST_FIRST=jumping.first(clock))
    go = tmp_path / "go"
    with bed.plan(2) as plan:
        plan.submit(f"until {go}")
        wait_for(lambda: running(bed))
        clock.write_text(str(jump))
        for _ in range(3):
            assert plan.run("sleep 0.2") == "slept"
        go.touch()
        assert plan.result(1) == "there\n"
        assert plan.told == []
        found = [event for event in json.loads(bed.ask("events")) if event["task"] == plan.number]
        assert [event["event"] for event in found] == ["submitted", "started", "ended"]
        assert abs(found[0]["at"] - time.time() - jump) < 60, "the clock has jumped"
    bed.worker("r-worker-c", TEST_FIRST=jumping.first(clock))
    assert "scaling to 0" not in bed.broker.log()
    assert api.replicas == 2


def test_task_that_loses_workers_without_end_is_given_up(bed: Bed) -> None:
    """Losses that it cannot have caused do not count against ``retries``, but they are bounded."""
    assert REPEATS == 20
    bed.restart_broker(TEST_FIRST="from image.broker import task_retries; task_retries.REPEATS = 2")
    with bed.plan(retries=0) as plan:
        plan.submit("sleep 600")
        for pod in ("w1", "w2", "w3"):
            process = bed.start_worker(pod)
            # The broker takes it for busy before the agent has the task.
            wait_for(lambda pod=pod: bed.probe(pod)[1] == "busy")  # type: ignore[misc]
            process.end(signal.SIGTERM)
            wait_for(lambda pod=pod: bed.state(pod) == "draining")  # type: ignore[misc]
            process.end(signal.SIGKILL)
        lost = json.loads(plan.result(1, "lost"))
        assert len(plan.told) == 2
        assert lost["pods"] == ["w3"]
        assert lost["reasons"][0].endswith(", the last of 3 losses")
        bed.worker("w4")
        assert plan.run("sleep 0") == "slept"


def peak(bed: Bed) -> int:
    """Highest resident set of the broker so far, in MiB."""
    status = Path(f"/proc/{bed.broker.process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) >> 10


@pytest.mark.timeout(600)
def test_ten_thousand_tasks_each_of_two_sessions_take_bounded_memory(bed: Bed) -> None:
    for number in range(4):
        bed.worker(f"w{number}")
    one, two = gone(), gone()

    def collected(plan: PlanSession) -> int:
        for _ in range(MANY):
            plan.submit("sleep 0")
        seen = set[str]()
        while len(seen) < MANY:
            words, body = plan.hear()
            assert (words[0], body) == ("done", b"slept\n")
            seen.add(words[1])
            if len(seen) % 200 == 0:
                plan.send("got " + " ".join(sorted(seen, key=int)[-200:]))
        return len(seen)

    before = peak(bed)
    found = list[int]()
    try:
        with bed.plan(4, pid=one.pid) as first, bed.plan(4, pid=two.pid) as second:
            threads = [threading.Thread(target=lambda p=p: found.append(collected(p))) for p in (first, second)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        for process in (one, two):
            process.kill()
            process.wait()
    assert found == [MANY, MANY]
    grown = peak(bed) - before
    print(f"the broker took {grown} MiB for {2 * MANY} tasks")
    assert grown < 40
