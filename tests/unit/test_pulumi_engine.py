"""Stack dev by the Pulumi CLI: its files, its calls, and pods that do not come up."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from pathlib import Path

import pytest
import yaml

from common import processes
from common.errors import UserError
from common.paths import REPO
from local import engines, pulumi_engine
from local.cluster import Node
from tests.unit.pulumi_machine import IMAGE, WAITS, calls, engine, environment, machine

__all__ = ["machine"]


def test_stack_is_created_in_clusters_folder_and_projects_file_stays(machine: Path) -> None:
    before = (REPO / "Pulumi.dev.yaml").read_bytes()
    assert engine(machine).up("dev", {"workers": "2", "image": IMAGE}) == {"workers": 2}
    assert (REPO / "Pulumi.dev.yaml").read_bytes() == before
    assert "mine: stack init dev" in calls(machine)
    assert engine(machine).up("dev", {"workers": "2", "image": IMAGE}) == {"workers": 2}
    assert calls(machine).count("mine: stack init dev") == 1
    # Selecting it in the project would change the user's own choice there.
    assert not any(call.startswith(f"{REPO.name}: stack select") for call in calls(machine))
    # With secrets the CLI would read the config of the project, and write a salt into it.
    assert not any("history" in call and "--show-secrets" in call for call in calls(machine))


def test_program_runs_in_the_project_with_the_copied_config(machine: Path) -> None:
    engine(machine).up("dev", {"workers": "2", "image": IMAGE})
    file = machine / "state/mine/Pulumi.dev.yaml"
    up = next(call for call in calls(machine) if call.startswith(f"{REPO.name}: up "))
    assert {"--yes", "--skip-preview", "--stack"} <= set(up.split())
    assert f"--config-file {file}" in up
    assert yaml.safe_load(file.read_text())["config"] == {
        "future-kubernetes:cloud": "local",
        "future-kubernetes:ide": "jupyterlab",
        "future-kubernetes:image": IMAGE,
        "future-kubernetes:workers": "2",
    }


def test_salt_of_the_first_run_stays(machine: Path) -> None:
    engine(machine).up("dev", {"workers": "2"})
    engine(machine).up("dev", {"workers": "3"})
    file = yaml.safe_load((machine / "state/mine/Pulumi.dev.yaml").read_text())
    assert file["encryptionsalt"] == "v1:salt"
    assert file["config"]["future-kubernetes:workers"] == "3"


def test_backend_is_in_clusters_folder_whatever_the_users_login(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULUMI_BACKEND_URL", "https://api.pulumi.com")
    monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE", "of another stack")
    engine(machine).up("dev", {})
    seen = environment(machine)
    passphrase = Path(seen["PULUMI_CONFIG_PASSPHRASE_FILE"])
    assert seen["PULUMI_BACKEND_URL"] == f"file://{machine}/state/mine/pulumi"
    assert passphrase.stat().st_mode & 0o077 == 0
    assert "PULUMI_CONFIG_PASSPHRASE" not in seen
    drawn = passphrase.read_text()
    engine(machine).up("dev", {})
    assert passphrase.read_text() == drawn


def test_password_is_encrypted_by_standard_input(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUTURE_KUBERNETES_PASSWORD", "correct horse")
    engine(machine).up("dev", {})
    assert (machine / "calls.password").read_text() == "correct horse"
    assert not any("correct horse" in call for call in calls(machine))
    assert any("config set" in call and "--secret future-kubernetes:password" in call for call in calls(machine))


def test_plugins_of_other_clouds_are_not_downloaded(machine: Path) -> None:
    engine(machine).up("dev", {})
    assert environment(machine)["PULUMI_OPTION_SKIP_PLUGIN_PRE_INSTALL"] == "true"


def test_uv_is_found_where_make_installed_it(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uv = machine / "cache/uv-1.2.3/bin/uv"
    uv.parent.mkdir(parents=True)
    uv.write_text("#!/bin/sh\n")
    uv.chmod(0o755)
    assert shutil.which("uv", path=pulumi_engine._path_with_uv()) == str(uv)
    monkeypatch.setenv("PATH", f"{uv.parent}{os.pathsep}{os.environ['PATH']}")
    assert pulumi_engine._path_with_uv() == os.environ["PATH"]


def test_failed_up_is_reported_with_the_fix(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UP", "false")
    with pytest.raises(UserError, match=r"pulumi failed(.|\n)*fix: make up"):
        engine(machine).up("dev", {})


def waiting(machine: Path, reason: str, message: str, restarts: int = 0) -> None:
    """Puts a waiting worker pod into the cluster."""
    state = {"waiting": {"reason": reason, "message": message}}
    labels = {"app.kubernetes.io/instance": "future-dev", "app.kubernetes.io/component": "worker"}
    metadata = {"name": "worker-1", "labels": labels, "creationTimestamp": "2999-01-01T00:00:00Z"}
    status = {"containerStatuses": [{"name": "worker", "restartCount": restarts, "state": state}]}
    pod = {"kind": "Pod", "metadata": metadata, "status": status}
    (machine / "calls.items").write_text(json.dumps({"items": [pod]}))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulumi_engine, "POLL_SECONDS", 0.1)
    monkeypatch.setattr("image.broker.diagnosis.PERMANENT_GRACE_SECONDS", 0.1)


@pytest.mark.usefixtures("impatient")
def test_pod_that_never_comes_up_is_reported_and_stops_pulumi(
    machine: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    waiting(machine, "ErrImagePull", "no-such-image: not found")
    monkeypatch.setenv("UP", f"trap 'echo rolled back; exit 1' INT; {WAITS}")
    with pytest.raises(UserError, match=r"stopped.*\n.*worker-1: ErrImagePull: no-such-image: not found"):
        engine(machine).up("dev", {})
    said = capfd.readouterr()
    assert "rolled back" in said.out
    assert "worker-1: ErrImagePull: no-such-image: not found" in said.err


@pytest.mark.usefixtures("impatient")
def test_pulumi_that_starts_after_the_report_is_stopped_too(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulumi_engine, "ROLLBACK_SECONDS", 1e9)
    looks = itertools.count()
    running = processes.running
    monkeypatch.setattr(processes, "running", lambda: running() if next(looks) else iter(()))
    waiting(machine, "ErrImagePull", "no-such-image: not found")
    monkeypatch.setenv("UP", f"trap 'exit 1' INT; {WAITS}")
    with pytest.raises(UserError, match="stopped"):
        engine(machine).up("dev", {})
    assert next(looks) == 2, "one interrupt is enough"


@pytest.mark.usefixtures("impatient")
def test_end_of_the_log_of_a_crashing_container_is_shown(
    machine: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    waiting(machine, "CrashLoopBackOff", "", restarts=2)
    monkeypatch.setenv("UP", f"trap 'exit 1' INT; {WAITS}")
    with pytest.raises(UserError, match="CrashLoopBackOff: container worker ended 2 times"):
        engine(machine).up("dev", {})
    assert "there is no package called 'sf'" in capfd.readouterr().err


@pytest.mark.usefixtures("impatient")
def test_pulumi_is_interrupted_again_where_it_does_not_end(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulumi_engine, "ROLLBACK_SECONDS", 0.3)
    waiting(machine, "ErrImagePull", "no-such-image: not found")
    monkeypatch.setenv("UP", f"trap \"trap 'exit 1' INT\" INT; {WAITS}")
    with pytest.raises(UserError, match="stopped"):
        engine(machine).up("dev", {})


@pytest.mark.usefixtures("impatient")
def test_pods_that_come_up_stop_nothing(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting(machine, "ContainerCreating", "")
    monkeypatch.setenv("UP", "trap 'exit 1' INT; sleep 0.5")
    assert engine(machine).up("dev", {}) == {"workers": 2}


def test_stack_of_the_stand_in_stays_with_it(machine: Path) -> None:
    (machine / "state/mine/standin.json").write_text(json.dumps({}))
    node = Node("mine", 1, machine / "state/mine/kubeconfig", machine / "programs")
    assert isinstance(engines.choose(node, "dev"), engines.StandIn)


def test_pulumi_that_is_too_old_is_refused_with_fix(machine: Path) -> None:
    program = machine / "programs/pulumi"
    program.write_text(program.read_text().replace("v3.999.0", "v2.1.0"))
    node = Node("mine", 1, machine / "state/mine/kubeconfig", machine / "programs")
    with pytest.raises(UserError, match=r"cannot be used: .*\n    fix: update it"):
        engines.choose(node, "dev")
