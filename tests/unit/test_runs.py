"""Runs: output, status, their end, and the stack's end after them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cli import client, main, pod_agent
from tests.unit.pretended_stack import Place, leave_as_soon_as_started, once_printed, place

__all__ = ["place"]

pytestmark = pytest.mark.timeout(60)


def test_the_scripts_output_results_and_status_are_the_commands(place: Place) -> None:
    place.script('mkdir -p deep; cp input deep/out; echo "$@"; echo error >&2; exit 3')
    assert place.run("--", "--stack", "two words") == 3
    assert place.printed == b"--stack two words\nerror\n"
    assert (place.project / "deep/out").read_text() == "42\n"
    assert b"deep/out (new)" in place.told
    # Neither input nor script are results.
    assert b"input" not in place.told
    assert (place.runs[0].stat().st_mode & 0o777) == 0o700


def test_run_whose_pod_ended_is_lost_with_own_status(place: Place) -> None:
    place.script(f"echo before > out; echo last words; echo $PPID > {place.folder}/leader; exec sleep 30")

    def end_the_pod() -> None:
        leader = int((place.folder / "leader").read_text())
        os.killpg(leader, 9)

    with once_printed(end_the_pod):
        assert place.run("--then", "destroy") == 124
    assert place.printed == b"last words\n"
    assert b"lost" in place.told
    assert (place.project / "out").read_text() == "before\n"
    assert not place.destroyed()


def test_run_of_other_boot_or_pod_is_dead_despite_pid(place: Place) -> None:
    place.script("sleep 30")
    leave_as_soon_as_started(place)
    folder = place.runs[0]
    assert pod_agent._state(folder)["state"] == "running"
    boot, host, process = (folder / "process").read_text().splitlines()
    later = process.replace(pod_agent._began(process), "1")
    for other in (("other", host, process), (boot, "other", process), (boot, host, later)):
        (folder / "process").write_text("\n".join(other))
        assert pod_agent._state(folder)["state"] == "lost", other
    (folder / "process").write_text("\n".join((boot, host, process)))
    assert place.batch("stop", folder.name) == 0


def test_ctrl_c_detaches_and_stop_ends(place: Place) -> None:
    place.script("echo here; sleep 30")

    def interrupt() -> None:
        raise KeyboardInterrupt

    with once_printed(interrupt):
        assert place.run() == 130
    run = place.runs[0].name
    assert f"attach {run}".encode() in place.told
    assert f"stop {run}".encode() in place.told
    assert place.batch("runs") == 0
    assert b"running" in place.printed
    assert place.batch("remove", run) == 125
    assert b"still running" in place.told
    assert place.batch("stop", run) == 0
    assert place.batch("runs") == 0
    assert b"stopped with 143" in place.printed
    assert place.batch("attach", run, "--results", str(place.project)) == 143
    assert place.batch("stop", run) == 0
    assert b"does not run" in place.told
    assert place.batch("remove", run) == 0
    assert place.runs == []


def test_script_that_ignores_the_signal_is_stopped_anyway(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    text = client.AGENT.replace(b"STOP_SECONDS = 10.0", b"STOP_SECONDS = 0.5")
    monkeypatch.setattr(client, "AGENT", text)
    place.script("trap '' TERM; echo here; while true; do sleep 0.1; done")
    with once_printed(lambda: place.batch("stop", place.runs[0].name)):
        assert place.run() == 137
    assert b"was stopped" in place.told
    assert not pod_agent._alive(place.runs[0])


def test_destroy_comes_after_success_alone(place: Place) -> None:
    place.script("echo partial > out; exit 1")
    assert place.run("--then", "destroy") == 1
    assert (place.project / "out").read_text() == "partial\n"
    assert not place.destroyed()
    assert b"kept" in place.told
    place.script("echo whole > out")
    assert place.run("--then", "destroy") == 0
    assert place.destroyed()


def test_nothing_is_destroyed_while_results_cannot_be_written(place: Place, tmp_path: Path) -> None:
    place.script("mkdir dir; echo 1 > dir/out")
    (tmp_path / "results").mkdir()
    (tmp_path / "results/dir").write_text("a file where a folder is to be")
    assert place.run("--results", str(tmp_path / "results"), "--then", "destroy") == 125
    assert not place.destroyed()
    assert b"cannot be written" in place.told
    assert b" attach " in place.told


def test_nothing_is_destroyed_while_another_run_needs_the_stack(place: Place) -> None:
    place.script("echo here; sleep 30")
    leave_as_soon_as_started(place)
    first = place.runs[0].name
    place.script("exit 0")
    assert place.run("--then", "destroy") == 125
    assert first.encode() in place.told
    assert not place.destroyed()
    assert place.batch("stop", first) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "nowhere", "main.R"], ["'nowhere'", "does not exist", "Fix:"]),
        (["run", "PROJECT/input", "main.R"], ["is a file", "Fix:"]),
        (["run", "PROJECT", "man.R"], ["'man.R'", "main.R", "Fix:"]),
        (["run", "PROJECT", "../analysis/main.R"], ["no script", "Fix:"]),
        (["run", "PROJECT", "main.R", "--results", "PROJECT/input"], ["cannot be written", "Fix: --results"]),
        (["attach", "20260101-000000-abcd"], ["no run '20260101-000000-abcd'", "future-kubernetes runs"]),
        (["remove", "../.."], ["no run '../..'"]),
    ],
)
def test_what_cannot_be_is_said_with_its_fix(place: Place, arguments: list[str], words: list[str]) -> None:
    (place.folder / "home/batch").mkdir()
    assert place.batch(*[argument.replace("PROJECT", str(place.project)) for argument in arguments]) == 125
    for word in words:
        assert word.encode() in place.told
    assert place.runs == []


@pytest.mark.parametrize(
    "arguments", [["run"], ["run", "folder"], ["stop"], ["run", "f", "main.R", "--then", "panic"], ["runs", "more"]]
)
def test_usage_error_of_a_run_command_has_exit_status_125(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(arguments) == 125
    assert f"Fix: future-kubernetes {arguments[0]} --help" in capsys.readouterr().err
