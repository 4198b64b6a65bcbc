"""A `pulumi up` that was killed or interrupted, and what the next one finds."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from common.errors import UserError
from common.paths import REPO
from local import pulumi_recovery
from tests.unit.pulumi_machine import WAITS, calls, engine, machine, named

__all__ = ["machine"]

URN = "urn:pulumi:dev::future-kubernetes::kubernetes:helm.sh/v3:Release::future-dev"


def test_lock_of_a_killed_cli_is_deleted_live_ones_kept(machine: Path) -> None:
    locks = machine / "state/mine/pulumi/.pulumi/locks/organization/future-kubernetes/dev"
    locks.mkdir(parents=True)
    for name, pid in (("gone", 2**30), ("of another program", os.getpid())):
        (locks / f"{name}.json").write_text(json.dumps({"pid": pid}))
    engine(machine).up("dev", {})
    assert not list(locks.iterdir())
    with named("pulumi", machine, {}) as living:
        (locks / "living.json").write_text(json.dumps({"pid": living.pid}))
        with pytest.raises(UserError, match=rf"updating this stack already(.|\n)*kill -INT {living.pid};"):
            engine(machine).up("dev", {})
    assert [lock.name for lock in locks.iterdir()] == ["living.json"]


def interrupted(
    machine: Path, monkeypatch: pytest.MonkeyPatch, operation: str, status: str, revisions: list[tuple[int, str]]
) -> None:
    """Pulumi's state during an operation on the release, and Helm's revisions of that release."""
    resource = {
        "urn": URN,
        "type": pulumi_recovery.RELEASE_TYPE,
        "inputs": {"name": "future-dev", "namespace": "future"},
    }
    monkeypatch.setenv("PENDING", json.dumps([{"resource": resource, "type": operation}]))
    monkeypatch.setenv("HISTORY", json.dumps([{"revision": number, "status": was} for number, was in revisions]))
    (machine / "calls.release").write_text(status)


def recovered(machine: Path) -> tuple[list[str], str]:
    """Helm's changes and the `pulumi refresh`, both of which come before `pulumi up`."""
    engine(machine).up("dev", {})
    before, up, _ = "\n".join(calls(machine)).partition(f"{REPO.name}: up ")
    assert up
    helm = [line for line in before.splitlines() if line.startswith(("helm rollback", "helm uninstall"))]
    refresh = [line for line in before.splitlines() if f"{REPO.name}: refresh " in line]
    assert len(refresh) == 1
    return helm, refresh[0]


@pytest.mark.parametrize("status", ["pending-install", "deployed"])
def test_killed_first_install_is_removed_and_started_anew(
    machine: Path, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    interrupted(machine, monkeypatch, "creating", status, [(1, status)])
    helm, refresh = recovered(machine)
    assert helm == ["helm uninstall future-dev --wait"]
    assert "--clear-pending-creates" in refresh


@pytest.mark.parametrize("status", ["pending-upgrade", "deployed"])
def test_killed_upgrade_is_rolled_back(machine: Path, monkeypatch: pytest.MonkeyPatch, status: str) -> None:
    interrupted(machine, monkeypatch, "updating", status, [(1, "deployed"), (2, status)])
    helm, _ = recovered(machine)
    assert helm == (["helm rollback future-dev 1"] if status == "pending-upgrade" else [])


def test_nothing_is_recovered_after_a_complete_run(machine: Path) -> None:
    engine(machine).up("dev", {})
    assert not any(call.startswith("helm ") or ": refresh " in call for call in calls(machine))


def test_only_the_plugins_of_a_killed_cli_are_killed(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(machine, monkeypatch, "creating", "", [])
    ours = {"PULUMI_BACKEND_URL": f"file://{machine}/state/mine/pulumi"}
    (machine / "living").mkdir()
    parent = shutil.copy("/bin/sh", machine / "living/pulumi")
    script = shutil.copy("/bin/sh", machine / "pulumi-resource-pulumi-python")
    with (
        subprocess.Popen([script, "-c", "sleep 60 & echo $!; wait"], env=ours, stdout=subprocess.PIPE) as script_left,
        named("pulumi-resource-kubernetes", machine, ours) as orphan,
        named("pulumi-resource-other", machine, {"PULUMI_BACKEND_URL": "file:///another"}) as of_another_stack,
        named("shell", machine, ours) as of_the_user,
        subprocess.Popen(
            [parent, "-c", f"{machine}/pulumi-resource-kubernetes 60 & echo $!; read line; kill $!; wait $!; echo $?"],
            env=ours, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        ) as living,
    ):  # fmt: skip
        assert living.stdout
        assert script_left.stdout
        living.stdout.readline()
        its_child = int(script_left.stdout.readline())
        engine(machine).up("dev", {})
        assert orphan.wait() == -signal.SIGKILL
        assert script_left.wait() == -signal.SIGKILL
        for _ in range(100):
            if not alive(its_child):
                break
            time.sleep(0.05)
        assert not alive(its_child)
        assert of_another_stack.poll() is None
        assert of_the_user.poll() is None
        assert living.communicate("end\n")[0] == f"{128 + signal.SIGTERM}\n"  # not SIGKILL


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_ctrl_c_waits_until_the_cli_has_rolled_back(machine: Path) -> None:
    program = textwrap.dedent(f"""
        from local.cluster import Node
        from local import engines
        from pathlib import Path
        machine = Path({str(machine)!r})
        node = Node("mine", 1, machine / "state/mine/kubeconfig", machine / "programs")
        engines.choose(node, "dev").up("dev", {{}})
    """)
    environment = {**os.environ, "UP": f"trap 'sleep 1; echo rolled back; exit 1' INT; touch $CALLS.up; {WAITS}"}
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=REPO, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        for _ in range(600):
            if (machine / "calls.up").exists():
                break
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        out, err = process.communicate(timeout=30)
    assert "rolled back" in out
    assert err.rstrip().endswith("KeyboardInterrupt")
