"""Stack dev by the Pulumi CLI: a program in its place records its calls, and writes files as the CLI does."""

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
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from common.errors import UserError
from common.paths import REPO
from local import engines, pulumi_engine, pulumi_recovery
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
URN = "urn:pulumi:dev::future-kubernetes::kubernetes:helm.sh/v3:Release::future-dev"


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


def test_stack_is_created_in_the_clusters_folder_and_the_projects_file_stays(machine: Path) -> None:
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


def test_backend_is_in_the_clusters_folder_whatever_the_user_is_logged_in_to(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_lock_of_a_killed_cli_is_deleted_and_of_a_running_one_kept(machine: Path) -> None:
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


WAITS = "i=0; while [ $i -lt 600 ]; do sleep 0.1; i=$((i + 1)); done"


@pytest.mark.usefixtures("impatient")
def test_pod_that_will_not_come_up_is_reported_and_stops_pulumi(
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


def test_stack_of_the_stand_in_stays_with_it(machine: Path) -> None:
    (machine / "state/mine/standin.json").write_text(json.dumps({}))
    node = Node("mine", 1, machine / "state/mine/kubeconfig", machine / "programs")
    assert isinstance(engines.choose(node, "dev"), engines.StandIn)


def test_a_pulumi_that_is_too_old_is_refused_with_the_fix(machine: Path) -> None:
    program = machine / "programs/pulumi"
    program.write_text(program.read_text().replace("v3.999.0", "v2.1.0"))
    node = Node("mine", 1, machine / "state/mine/kubeconfig", machine / "programs")
    with pytest.raises(UserError, match=r"cannot be used: .*\n    fix: update it"):
        engines.choose(node, "dev")
