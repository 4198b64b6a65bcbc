"""The end of stacks past their `ttlHours`, with a Pulumi CLI of the test's own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ci import expire
from common.errors import UserError
from tests.unit import aws_cloud, google_cloud
from tests.unit.cloud_mocks import ROOT

NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)


class Backend:
    """A repository with stacks, and a `pulumi` that exports a state and notes what it is asked."""

    def __init__(self, folder: Path) -> None:
        self.repo, self.calls, self.state = folder / "repo", folder / "calls", folder / "state"
        self.repo.mkdir()
        (self.repo / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
        program = folder / "pulumi"
        program.write_text(
            f'#!/bin/sh\necho "$*" >> {self.calls}\n'
            f'case "$1" in stack) cat {self.state} || {{ echo "error: $FAILS" >&2; exit 1; }} ;; '
            '*) exit "${STATUS:-0}" ;; esac\n'
        )
        program.chmod(0o755)

    def stack(self, name: str, ttl: object, cloud: str = "eks", more: str = "") -> None:
        lines = f"config:\n  future-kubernetes:cloud: {cloud}\n{more}"
        ended = "" if ttl is None else f"  future-kubernetes:ttlHours: {json.dumps(ttl)}\n"
        (self.repo / f"Pulumi.{name}.yaml").write_text(lines + ended)

    def created(self, *times: datetime | None) -> None:
        listed = [{"urn": "u", **({"created": time.isoformat()} if time else {})} for time in times]
        self.state.write_text(json.dumps({"version": 3, "deployment": {"resources": listed}}))

    def home(self, type_: str, inputs: dict[str, object]) -> None:
        """Adds a resource to the state of a stack past its time."""
        listed = [{"urn": "u", "type": type_, "inputs": inputs, "created": (NOW - timedelta(hours=99)).isoformat()}]
        self.state.write_text(json.dumps({"version": 3, "deployment": {"resources": listed}}))

    @property
    def destroyed(self) -> list[str]:
        calls = self.calls.read_text().splitlines() if self.calls.exists() else []
        return [call for call in calls if call.startswith("destroy")]


@pytest.fixture
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Backend:
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAILS", "expired token")
    return Backend(tmp_path)


def test_stack_past_its_hours_is_destroyed_and_names_the_home(
    backend: Backend, capfd: pytest.CaptureFixture[str]
) -> None:
    backend.stack("team", 72)
    backend.created(NOW - timedelta(hours=1), NOW - timedelta(hours=72), None)
    assert expire.expire(backend.repo, "team", NOW) == 0
    assert backend.destroyed == ["destroy --stack team --yes --non-interactive --suppress-outputs"]
    told = capfd.readouterr().out
    assert "::warning::stack team is destroyed: 72 hours (ttlHours) ended at 2026-12-01 12:00 UTC" in told
    assert "home and /shared are deleted too" in told


def test_stack_within_its_hours_stays_whatever_was_replaced_since(
    backend: Backend, capfd: pytest.CaptureFixture[str]
) -> None:
    backend.stack("team", "72")
    backend.created(NOW, NOW - timedelta(hours=71, minutes=59))
    assert expire.expire(backend.repo, "team", NOW) == 0
    backend.state.write_text(backend.state.read_text().replace("+00:00", ".123456789Z"))  # as Pulumi writes it
    assert expire.expire(backend.repo, "team", NOW) == 0
    assert not backend.destroyed
    assert "stack team ends at 2026-12-01 12:01 UTC" in capfd.readouterr().out


@pytest.mark.parametrize("ttl", [None, 0, "0", ""])
def test_stack_without_hours_is_not_even_asked_for(backend: Backend, ttl: object) -> None:
    backend.stack("team", ttl)
    assert expire.expire(backend.repo, "team", NOW) == 0
    assert not backend.calls.exists()


def test_stack_that_is_empty_or_in_no_backend_is_left(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    backend.stack("team", 1)
    backend.created()
    assert expire.expire(backend.repo, "team", NOW) == 0
    backend.state.write_text(json.dumps({"version": 3, "deployment": None}))
    assert expire.expire(backend.repo, "team", NOW) == 0
    backend.state.unlink()
    monkeypatch.setenv("FAILS", "no stack named 'team' found")
    assert expire.expire(backend.repo, "team", NOW) == 0
    assert not backend.destroyed


def test_state_that_is_hidden_or_without_times_destroys_nothing(backend: Backend) -> None:
    backend.stack("team", 1)
    with pytest.raises(UserError, match="expired token"):
        expire.expire(backend.repo, "team", NOW)
    backend.created(None, None)
    with pytest.raises(UserError, match="no times of creation"):
        expire.expire(backend.repo, "team", NOW)
    assert not backend.destroyed


@pytest.mark.parametrize("ttl", [-1, "three", 1.5, True, "72 h"])
def test_wrong_hours_are_refused_with_a_fix(backend: Backend, ttl: object) -> None:
    backend.stack("team", ttl)
    with pytest.raises(UserError, match=r"(?s)ttlHours of stack team is .*allowed: .*fix: pulumi config set ttlHours"):
        expire.expire(backend.repo, "team", NOW)
    assert not backend.calls.exists()


def test_failed_destroy_fails_the_job(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    backend.stack("team", 1)
    backend.created(NOW - timedelta(hours=2))
    monkeypatch.setenv("STATUS", "3")
    assert expire.expire(backend.repo, "team", NOW) == 3


def test_only_stacks_with_hours_are_in_the_matrix(backend: Backend, tmp_path: Path) -> None:
    backend.stack("team", 72)
    backend.stack("lasting", None)
    backend.stack("dev", 5, "local")
    output = tmp_path / "output"
    command = [sys.executable, "-m", "ci.expire"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "GITHUB_OUTPUT": str(output)}
    done = subprocess.run(command, cwd=backend.repo, env=env, capture_output=True, text=True, check=True)
    assert done.stdout == output.read_text()
    assert json.loads(done.stdout.removeprefix("stacks=")) == [{"stack": "team", "extra": "eks"}]
    backend.stack("team", "soon")
    done = subprocess.run(command, cwd=backend.repo, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "error: ttlHours of stack team" in done.stderr


KEPT = [
    ("aws:ebs/volume:Volume", {"finalSnapshot": True}),
    ("gcp:compute/disk:Disk", {"createSnapshotBeforeDestroy": True}),
    ("kubernetes:helm.sh/v3:Release", {"values": {"scheduler": {"keepHome": True}}}),
]


@pytest.mark.parametrize(("type_", "inputs"), KEPT)
def test_home_that_destroy_saves_is_said_to_be_kept(
    backend: Backend, capfd: pytest.CaptureFixture[str], type_: str, inputs: dict[str, object]
) -> None:
    backend.stack("team", 72, more='  future-kubernetes:keepHome: "true"\n')
    backend.home(type_, inputs)
    assert expire.expire(backend.repo, "team", NOW) == 0
    assert len(backend.destroyed) == 1
    assert "The home is kept (keepHome), and /shared is deleted" in capfd.readouterr().out


@pytest.mark.parametrize("type_", [type_ for type_, _ in KEPT])
def test_keep_home_that_no_update_applied_stops_the_end(backend: Backend, type_: str) -> None:
    """A destroy reads no settings: it would delete the home that its owner wants kept."""
    backend.stack("team", 72, more='  future-kubernetes:keepHome: "true"\n')
    backend.home(type_, {"finalSnapshot": False, "values": {"scheduler": {}}})
    with pytest.raises(UserError, match=r"fix: pulumi up --stack team"):
        expire.expire(backend.repo, "team", NOW)
    assert not backend.destroyed
    backend.stack("team", 72)
    assert expire.expire(backend.repo, "team", NOW) == 0
    assert len(backend.destroyed) == 1


def test_stack_without_a_home_ends_whatever_keep_home_says(backend: Backend) -> None:
    """Such as one whose first update failed early."""
    backend.stack("team", 72, more="  future-kubernetes:keepHome: true\n")
    backend.home("aws:ec2/vpc:Vpc", {})
    assert expire.expire(backend.repo, "team", NOW) == 0
    assert len(backend.destroyed) == 1


def test_inputs_that_keep_a_home_are_those_of_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Renamed there, the end of every stack with keepHome would stop."""
    monkeypatch.setattr(shutil, "which", lambda name, **_more: f"/nowhere/bin/{name}")
    for run in (aws_cloud.eks, google_cloud.gke):
        for kept in (True, False):
            done = run({"keepHome": kept})
            state = {"resources": [{"type": each.type, "inputs": each.inputs} for each in done.resources]}
            assert expire.keeps_home({"deployment": state}) is kept
