"""The story in the virtual machine: what counts as left behind, and how the outcome is shown."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from ci.lint import tracked_files
from tests.vm import story, tree
from tests.vm.guest import Guest


class FakeGuest:
    """A machine in which one command may fail, and one thing may be left."""

    def __init__(self, fails: str = "", leaves: str = "") -> None:
        self.fails, self.leaves, self.ran = fails, leaves, list[str]()

    def run(self, command: str) -> str:
        if command.startswith("lsmod"):
            return "Module\nveth\n" + ("overlay\n" if self.ran else "")
        return f"{self.leaves}\n" if self.ran and self.leaves and command == story.FOOTPRINT["control groups"] else ""

    def stream(self, command: str, line: Callable[[str], None]) -> int:
        self.ran.append(command.rpartition("&& ")[2])
        line("said something")
        return int(bool(self.fails) and command.endswith(self.fails))


def play(guest: FakeGuest, folder: Path, more: tuple[str, ...] = ()) -> list[story.Outcome]:
    return story.play(cast(Guest, guest), folder / "log", more)


def test_story_that_holds_runs_every_step_and_names_loaded_modules(tmp_path: Path) -> None:
    guest = FakeGuest()
    outcomes = play(guest, tmp_path, ("test-unit",))
    assert guest.ran == [
        "make up",
        "make up",
        "make status",
        "grep -qx 204 /tmp/analysis/sum.txt",
        "make down",
        "make test-unit",
    ]
    assert all(outcome.held for outcome in outcomes)
    assert outcomes[-1].detail == "overlay"
    assert "== make up again" in (tmp_path / "log").read_text()


def test_step_that_fails_ends_the_story_with_its_last_lines(tmp_path: Path) -> None:
    guest = FakeGuest(fails="make up")
    outcomes = play(guest, tmp_path)
    assert guest.ran == ["make up"]
    assert [outcome.held for outcome in outcomes] == [False]
    assert "FAIL make up" in story.summary(outcomes)
    assert "said something" in story.summary(outcomes)


def test_control_group_that_stays_is_a_failure(tmp_path: Path) -> None:
    outcomes = play(FakeGuest(leaves="/sys/fs/cgroup/future-kubernetes-dev"), tmp_path)
    failed = [outcome for outcome in outcomes if not outcome.held]
    assert [outcome.title for outcome in failed] == ["nothing is left"]
    assert failed[0].detail == "control groups: left behind: /sys/fs/cgroup/future-kubernetes-dev"


@pytest.mark.parametrize("name", story.FOOTPRINT)
def test_everything_that_is_listed_is_compared(name: str) -> None:
    before = {key: ["a"] for key in story.FOOTPRINT}
    assert story.differences(before, before) == []
    assert story.differences(before, {**before, name: ["b"]}) == [f"{name}: left behind: b", f"{name}: missing: a"]


def test_commit_inside_is_a_clone_of_which_tests_can_list_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Here:
        def run(self, command: str, stdin: bytes) -> None:
            subprocess.run(["sh", "-euc", command], input=stdin, check=True)

    monkeypatch.setattr(tree, "INSIDE", str(tmp_path / "copy"))
    tree.copy_commit(cast(Guest, Here()))
    assert "Makefile" in tracked_files(tmp_path / "copy", "Makefile")
