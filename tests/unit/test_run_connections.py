"""Runs whose connection is lost or silent, and what is sent again."""

from __future__ import annotations

import json
import os

import pytest

from cli import client
from common.patience import patience
from tests.unit.pretended_stack import Place, place

__all__ = ["place"]

pytestmark = pytest.mark.timeout(60)


def test_a_lost_connection_goes_on_where_the_log_was(place: Place) -> None:
    place.script("for i in 1 2 3 4 5 6 7 8 9; do echo line $i; sleep 0.2; done")
    place.faults(follow=["cut 80", "refuse"])
    assert place.run() == 0
    assert place.printed == b"".join(b"line %d\n" % i for i in range(1, 10))
    assert place.told.count(b"connection lost") == 2
    assert b"connected again" in place.told


def test_silence_is_a_lost_connection(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "SILENCE_SECONDS", 4.0)
    place.faults(follow=["hang"])
    assert place.run() == 0
    assert place.printed == b"done\n"
    assert f"not a byte for {patience(4):.0f} s".encode() in place.told


def test_connection_that_stays_lost_ends_command_but_not_run(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "RETRY_SECONDS", 2.0)
    place.faults(follow=["refuse"] * 9)
    assert place.run("--then", "destroy") == 125
    run = place.runs[0].name
    assert b"i/o timeout" in place.told
    assert f"attach {run} --results {place.project} --then destroy --stack team-a".encode() in place.told
    assert not place.destroyed()
    place.faults()
    assert place.batch("attach", run, "--results", str(place.project), "--then", "destroy") == 0
    assert place.printed == b"done\n"
    assert (place.project / "out").exists()
    assert place.destroyed()


def test_project_that_arrived_in_part_is_removed_unrun(place: Place) -> None:
    (place.project / "large").write_bytes(os.urandom(3_000_000))
    place.faults(receive=["starve 1000000"], remove=["refuse"])
    assert place.run() == 125
    assert b"Fix: " in place.told
    assert place.runs == []


def test_lost_answer_to_launch_does_not_start_script_twice(place: Place) -> None:
    place.script(f"echo started >> {place.folder}/starts; sleep 1")
    place.faults(launch=["cut 5"])
    assert place.run() == 0
    assert (place.folder / "starts").read_text() == "started\n"


def test_results_that_were_cut_off_are_fetched_again_whole(place: Place) -> None:
    place.script("head -c 2000000 /dev/zero > out1; cat input > out2")
    place.faults(send=["cut 1000000"])
    assert place.run() == 0
    assert (place.project / "out1").stat().st_size == 2_000_000
    assert {path.name for path in place.project.iterdir()} == {"input", "main.R", "out1", "out2"}


def test_a_scheduler_that_does_not_answer_is_described(place: Place) -> None:
    waiting = {"reason": "ImagePullBackOff", "message": "no such image"}
    described = {"metadata": {"name": "future-scheduler-1"}, "status": {
        "phase": "Pending", "containerStatuses": [{"state": {"waiting": waiting}}]}}  # fmt: skip
    (place.folder / "answer").write_text(json.dumps({"items": [described]}))
    place.faults(space=["refuse"])
    assert place.run("--stack", "team-a") == 125
    for word in (b"i/o timeout", b"ImagePullBackOff", b"pulumi up --stack team-a"):
        assert word in place.told
