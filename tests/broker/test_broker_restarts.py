"""Task mode: tasks and results outlive the broker and the session's connection."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from .conftest import Bed, wait_for
from .sessions import gone, running


def test_results_wait_for_a_session_that_lost_its_connection(bed: Bed) -> None:
    bed.worker("w1")
    with bed.plan() as plan:
        plan.submit("pid")
        plan.result(1)
        plan.submit("sleep 0.5")
    with bed.plan(key=plan.key) as again:
        assert {again.hear()[0][1], again.hear()[0][1]} == {"1", "2"}, "the first was not acknowledged"
        again.send("got 1 2")
    with bed.plan(key=plan.key) as last:
        assert last.run("sleep 0") == "slept"
        assert last.told == [], "what was acknowledged is not sent again"


def test_a_restart_of_the_broker_disturbs_no_running_task(bed: Bed, tmp_path: Path) -> None:
    bed.worker("w1")
    go, begun = tmp_path / "go", tmp_path / "begun"
    plan = bed.plan()
    plan.submit(f"touch {begun}\nuntil {go}\npid")
    wait_for(begun.exists)
    bed.restart_broker()
    with bed.plan(key=plan.key) as again:
        again.send("hold 1")
        wait_for(lambda: running(bed) == {"w1": os.getpid()})
        go.touch()
        assert again.result(1).startswith("touched\nthere\n")
    assert begun.read_text() == "x", "computed once"


def test_result_that_was_ready_while_broker_was_away_is_kept(bed: Bed, tmp_path: Path) -> None:
    bed.worker("w1")
    go, begun = tmp_path / "go", tmp_path / "begun"
    plan = bed.plan()
    plan.submit(f"touch {begun}\nuntil {go}")
    wait_for(begun.exists)
    bed.broker.end()
    bed.broker.wait()
    go.touch()
    wait_for(lambda: bed.probe("w1")[1] == "connecting")
    bed.start_broker()
    with bed.plan(key=plan.key) as again:
        again.send("hold 1")
        assert again.result(1) == "touched\nthere\n"
    assert begun.read_text() == "x", "computed once"


def test_tasks_that_waited_in_a_lost_broker_are_requested_again(bed: Bed, tmp_path: Path) -> None:
    bed.worker("w1")
    go, begun = tmp_path / "go", tmp_path / "begun"
    plan = bed.plan()
    plan.submit(f"touch {begun}\nuntil {go}")
    plan.submit("sleep 0")
    wait_for(begun.exists)
    bed.restart_broker()
    with bed.plan(key=plan.key) as again:
        again.send("hold 1 2")
        asked = {again.hear()[0][1], again.hear()[0][1]}
        assert asked == {"1", "2"}, "the running one as well: its data are needed if its worker is lost"
        again.submit(f"touch {begun}\nuntil {go}", 1)
        again.submit("sleep 0", 2)
        go.touch()
        assert again.result(1) == "touched\nthere\n"
        assert again.result(2) == "slept\n"
    assert begun.read_text() == "x", "computed once"


def collect(bed: Bed, *programs: str) -> list[bytes]:
    """The results of programs, one after the other, as R collects them: across the end of the broker."""
    key, results = "", list[bytes]()
    while len(results) < len(programs):
        if bed.broker.process.poll() is not None:
            bed.start_broker()
        try:
            with bed.plan(key=key) as plan:
                key = plan.key
                plan.send(f"hold {len(results) + 1}")
                while len(results) < len(programs):
                    number, program = len(results) + 1, programs[len(results)]
                    words, body = plan.hear()
                    if words[:2] == ["unknown", str(number)]:
                        plan.submit(program, number)
                    elif words[:2] == ["ready", str(number)]:
                        plan.send(f"fetch {number}")
                    elif words[:2] == ["done", str(number)]:
                        results.append(body)
                        plan.send(f"got {number}")
                        plan.send(f"hold {number + 1}")
        except (OSError, EOFError):
            key = key or "early"
            bed.broker.wait()
    return results


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("method", ["open", "submit", "_start", "condition", "finished", "end", "fetch", "collected"])
def test_broker_killed_at_any_step_loses_and_repeats_nothing(bed: Bed, tmp_path: Path, when: str, method: str) -> None:
    bed.restart_broker(TEST_DIES=f"{when} {method}")
    dying = bed.broker
    bed.worker("w1")
    large, small = collect(bed, f"touch {tmp_path / 'runs'}\ntell half\nbytes 2000000", "sleep 0")
    assert len(large) == 2_000_008
    assert small == b"slept\n"
    assert dying.process.poll() == -signal.SIGKILL
    assert (tmp_path / "runs").read_text() == "x"


def test_results_that_wait_survive_a_broker_that_was_killed(bed: Bed, tmp_path: Path) -> None:
    bed.worker("w1")
    runs = tmp_path / "runs"
    plan = bed.plan()
    for number in range(1, 4):
        plan.submit(f"touch {runs}\nbytes {number * 400_000}")
    wait_for(lambda: runs.exists() and len(runs.read_text()) == 3 and bed.state("w1") == "idle")
    assert plan.hear()[0][1] == "1"
    plan.send("got 1")
    plan.send("fetch 3")
    wait_for(lambda: len(list((bed.folder / "results").glob("*.result"))) == 2)
    bed.restart_broker()
    with bed.plan(key=plan.key) as again:
        again.send("hold 2 3")
        found = dict[str, int]()
        while len(found) < 2:
            words, body = again.hear()
            if words[0] == "ready":
                again.send(f"fetch {words[1]}")
            else:
                found[words[1]] = len(body)
        assert found == {"2": 800_008, "3": 1_200_008}
        again.send("got 2 3")
        wait_for(lambda: not list((bed.folder / "results").glob("*.result")))
        again.send("close")
    wait_for(lambda: not list((bed.folder / "results").iterdir()))
    assert runs.read_text() == "xxx"


def test_results_of_a_gone_session_are_removed_by_next_broker(bed: Bed) -> None:
    bed.worker("w1")
    session = gone()
    plan = bed.plan(pid=session.pid)
    plan.submit("bytes 400000")
    wait_for(lambda: list((bed.folder / "results").glob("*.result")) and bed.state("w1") == "idle")
    bed.broker.end()
    bed.broker.wait()
    session.kill()
    session.wait()
    bed.start_broker()
    assert not list((bed.folder / "results").iterdir())
