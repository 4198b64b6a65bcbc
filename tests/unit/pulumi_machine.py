"""A machine on which a program in the Pulumi CLI's place records its calls, and writes files as the CLI does."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from local import engines, pulumi_engine
from local.cluster import Node

# As the CLI in the folder that it runs in: creating a stack writes a salt into the stack's file.
FAKE_PULUMI = """#!/bin/sh
[ "$1" = --non-interactive ] && shift
echo "$(basename "$PWD"): $*" >> "$CALLS"
env | grep ^PULUMI_ | sort > "$CALLS.environment"
case "$1 $2" in
  "version "*) echo v3.999.0 ;;
  "stack select") [ -e "$CALLS.created" ] || { echo "error: no stack named '$4' found" >&2; exit 1; } ;;
  "stack init") touch "$CALLS.created"; echo "encryptionsalt: v1:salt" >> "Pulumi.dev.yaml" ;;
  "stack output") echo '{"workers": 2}' ;;
  "stack history") echo '[{"kind": "update", "startTime": "2026-01-02T03:04:05.000Z", "message": "", "environment": {},
    "config": {}, "result": "succeeded", "endTime": "2026-01-02T03:04:06.000Z"}]' ;;
  "stack export") echo "{\\"version\\": 3, \\"deployment\\": {\\"pending_operations\\": ${PENDING:-[]}}}" ;;
  "config set") cat > "$CALLS.password" ;;
  "up "*) eval "${UP:-true}" ;;
esac
"""

# Keeps the release's status in a file, as Helm keeps it in the cluster.
FAKE_HELM = """#!/bin/sh
echo "helm $1 $2 $3" >> "$CALLS"
case "$1" in
  status) [ -s "$CALLS.release" ] || { echo "Error: release: not found" >&2; exit 1; }
          printf '{"info": {"status": "%s"}}' "$(cat "$CALLS.release")" ;;
  history) echo "$HISTORY" ;;
  rollback) echo deployed > "$CALLS.release" ;;
  uninstall) : > "$CALLS.release" ;;
esac
"""

FAKE_KUBECTL = """#!/bin/sh
case "$*" in
  *" logs "*) echo "Error: there is no package called 'sf'" ;;
  *) cat "$CALLS.items" ;;
esac
"""

IMAGE = f"i@sha256:{'0' * 64}"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, text in (("pulumi", FAKE_PULUMI), ("helm", FAKE_HELM), ("kubectl", FAKE_KUBECTL)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    (tmp_path / "calls.items").write_text('{"items": []}')
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setenv("FUTURE_KUBERNETES_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("FUTURE_KUBERNETES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FUTURE_KUBERNETES_CLUSTER", "mine")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    for name in ("FUTURE_KUBERNETES_KUBECONFIG", "FUTURE_KUBERNETES_BIN"):
        monkeypatch.setenv(name, "set here so that it is restored")
    monkeypatch.delenv("FUTURE_KUBERNETES_PASSWORD", raising=False)
    (tmp_path / "state/mine").mkdir(parents=True)
    return tmp_path


def engine(machine: Path) -> engines.Engine:
    node = Node("mine", 1, machine / "state/mine/kubeconfig", machine / "programs")
    found = engines.choose(node, "dev")
    assert isinstance(found, pulumi_engine.PulumiEngine)
    return found


def calls(machine: Path) -> list[str]:
    return (machine / "calls").read_text().splitlines()


def environment(machine: Path) -> dict[str, str]:
    pairs = (line.partition("=") for line in (machine / "calls.environment").read_text().splitlines())
    return {name: value for name, _, value in pairs}


@contextlib.contextmanager
def named(name: str, machine: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A sleeping process with this name, until the block ends."""
    program = shutil.copy("/usr/bin/sleep", machine / name)
    with subprocess.Popen(["sleep", "60"], executable=program, env=environment) as process:
        try:
            comm = Path(f"/proc/{process.pid}/comm")  # the kernel wakes the parent before it sets the new name
            while comm.read_text().strip() != name[:15]:
                assert process.poll() is None
                time.sleep(0.01)
            yield process
        finally:
            process.kill()


WAITS = "i=0; while [ $i -lt 600 ]; do sleep 0.1; i=$((i + 1)); done"
