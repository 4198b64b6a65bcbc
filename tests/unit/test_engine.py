"""The stand-in engine, with a kubectl and a helm that keep their cluster in a folder."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.errors import UserError
from local import engine
from local.engine_state import State

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "127.0.0.1:5000/future-kubernetes@sha256:" + "ab" * 32
OTHER_IMAGE = IMAGE.replace("ab", "cd")

TOOL = """
import json, os, pathlib, sys, time
home = pathlib.Path({home!r})
arguments = sys.argv[1:]
with (home / "calls").open("a") as calls:
    calls.write(json.dumps([pathlib.Path(sys.argv[0]).name, *arguments]) + "\\n")
def flag(name):
    return arguments[arguments.index(name) + 1]
"""

KUBECTL = (
    TOOL
    + """
kubeconfig = pathlib.Path(flag("--kubeconfig"))
assert kubeconfig.stat().st_mode & 0o077 == 0, "others can read the kubeconfig"
arguments = [a for a in arguments if a not in ("--kubeconfig", str(kubeconfig))]
objects = home / "objects"
space = flag("--namespace") + "/" if "--namespace" in arguments else ""
def place(space, kind, name):
    return objects / (space.replace("/", ".") + kind + "." + name)
if (home / "unreachable").exists():
    sys.exit("The connection to the server was refused")
if arguments[0] == "get" and arguments[1] == "pods,events":
    pods = home / "pods.json"
    print(pods.read_text() if pods.exists() else '{{"items": []}}')
elif "nodes" in arguments:
    ready = dict(type="Ready", status="True")
    allocatable = dict(cpu="4", memory="16Gi", pods="110")
    print(json.dumps(dict(items=[dict(spec=dict(), status=dict(conditions=[ready], allocatable=allocatable))])))
elif arguments[0] == "get":
    path = place(space, arguments[1], arguments[2])
    print(arguments[2] if path.exists() else "")
elif arguments[0] == "apply":
    found = json.load(sys.stdin)
    meta = found["metadata"]
    space = meta["namespace"] + "/" if "namespace" in meta else ""
    place(space, found["kind"], meta["name"]).write_text(json.dumps(found))
elif arguments[0] == "delete":
    place(space, arguments[1], arguments[2]).unlink(missing_ok=True)
elif arguments[0] == "logs":
    print("the last thing it said")
"""
)

HELM = (
    TOOL
    + """
state = home / (flag("--namespace") + ".release.json")
release = json.loads(state.read_text()) if state.exists() else None
def keep(status):
    history = (release or dict(history=[]))["history"] + [status]
    state.write_text(json.dumps(dict(status=status, history=history)))
command = arguments[0]
if command == "status":
    if release is None:
        sys.exit("Error: release: not found")
    print(json.dumps(dict(info=dict(status=release["status"]))))
elif command == "history":
    print(json.dumps([dict(revision=n + 1, status=s) for n, s in enumerate(release["history"])]))
elif command == "rollback":
    keep("deployed")
elif command == "uninstall":
    state.unlink(missing_ok=True)
elif command == "upgrade":
    if release and release["status"].startswith("pending"):
        sys.exit("Error: UPGRADE FAILED: another operation (install/upgrade/rollback) is in progress")
    values = pathlib.Path(flag("--values"))
    assert values.stat().st_mode & 0o077 == 0, "others can read the values"
    (home / "values.json").write_text(values.read_text())
    keep("pending-install" if release is None else "pending-upgrade")
    release = json.loads(state.read_text())
    mode = (home / "mode").read_text() if (home / "mode").exists() else "ready"
    if mode == "hang":
        (home / "hanging").touch()
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            keep("failed")
            sys.exit("Error: release was cancelled")
    if mode == "refuse":
        keep("failed")
        sys.exit("Error: UPGRADE FAILED: context deadline exceeded")
    release["history"] = [s for s in release["history"] if not s.startswith("pending")]
    keep("deployed")
"""
)


@dataclass
class Machine:
    """A folder that plays the cluster, and the environment in which the engine finds it."""

    home: Path

    def calls(self, tool: str, first: str) -> list[list[str]]:
        every = [json.loads(line) for line in (self.home / "calls").read_text().splitlines()]
        return [call for call in every if call[0] == tool and first in call]

    def objects(self) -> set[str]:
        return {path.name for path in (self.home / "objects").iterdir()}

    @property
    def state(self) -> Path:
        return engine.state_path("dev")

    def secret(self) -> dict[str, str]:
        found = json.loads((self.home / "objects" / "future-dev.Secret.future-dev-auth").read_text())
        return dict(found["stringData"])

    def values(self) -> dict[str, Any]:
        return dict(json.loads((self.home / "values.json").read_text()))

    @property
    def release(self) -> Path:
        return self.home / "future-dev.release.json"

    def mode(self, how: str) -> None:
        (self.home / "mode").write_text(how)

    def pods(self, *items: dict[str, Any]) -> None:
        (self.home / "pods.json").write_text(json.dumps({"items": items}))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    tools = tmp_path / "bin"
    tools.mkdir()
    (tmp_path / "objects").mkdir()
    for name, text in (("kubectl", KUBECTL), ("helm", HELM)):
        (tools / name).write_text(f"#!{sys.executable} -IS\n" + text.format(home=str(tmp_path)))
        (tools / name).chmod(0o755)
    kubeconfig = tmp_path / "kubeconfig"
    cluster = {"server": "https://10.0.0.1:6443", "certificate-authority-data": "Y2E="}
    kubeconfig.write_text(
        yaml.safe_dump(
            {
                "clusters": [{"name": "c", "cluster": cluster}],
                "users": [{"name": "u", "user": {"token": "token-of-the-cluster"}}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "x",
            }
        )
    )
    monkeypatch.setenv("FUTURE_KUBERNETES_BIN", str(tools))
    monkeypatch.setenv("FUTURE_KUBERNETES_KUBECONFIG", str(kubeconfig))
    monkeypatch.setenv("FUTURE_KUBERNETES_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.delenv(engine.PASSWORD_VARIABLE, raising=False)
    monkeypatch.setattr("local.engine_resources.POLL_SECONDS", 0.1)
    monkeypatch.setattr("local.rollout.FINAL_SECONDS", 0.3)
    return Machine(tmp_path)


Up = Callable[..., tuple[int, str]]


@pytest.fixture
def up(machine: Machine, capfd: pytest.CaptureFixture[str]) -> Up:
    """Runs a command of the engine in this process; gives back exit status and all that was printed."""

    def command(*arguments: str, image: str = IMAGE, verb: str = "up") -> tuple[int, str]:
        given = ["--config", f"image={image}"] if verb in ("up", "preview") else []
        status = engine.main([verb, *given, *arguments])
        said = capfd.readouterr()
        return status, said.out + said.err

    return command


def pod(waiting: str, message: str = "", name: str = "future-dev-worker-1", restarts: int = 0) -> dict[str, Any]:
    """A pod whose container waits for a reason."""
    container = {
        "name": "worker",
        "restartCount": restarts,
        "state": {"waiting": {"reason": waiting, "message": message}},
        "lastState": {"terminated": {"exitCode": 3, "reason": "Error"}},
    }
    labels = {"app.kubernetes.io/instance": "future-dev", "app.kubernetes.io/component": "worker"}
    return {"kind": "Pod", "metadata": {"name": name, "labels": labels}, "status": {"containerStatuses": [container]}}


def counts(text: str) -> dict[str, int]:
    """The counts of the closing line."""
    line = next(line for line in text.splitlines() if line.startswith(("Resources:", "Would be:")))
    return {word: int(number) for number, word in re.findall(r"(\d+) (created|updated|replaced|deleted|same)", line)}


def test_up_makes_every_resource_and_up_again_changes_nothing(machine: Machine, up: Up) -> None:
    status, said = up()
    assert status == 0, said
    assert counts(said)["created"] == 5
    assert machine.objects() == {"Namespace.future-dev", "future-dev.Secret.future-dev-auth"}
    assert machine.values()["image"] == IMAGE
    before = machine.state.read_text()
    status, said = up()
    assert (status, counts(said)) == (0, {"created": 0, "updated": 0, "replaced": 0, "deleted": 0, "same": 5})
    assert len(machine.calls("helm", "upgrade")) == 1
    assert len(machine.calls("kubectl", "apply")) == 2
    assert machine.state.read_text() == before


def test_it_says_that_it_is_not_pulumi(up: Up) -> None:
    assert "not Pulumi" in up()[1]


def test_another_image_updates_the_release_alone_and_the_secrets_stay(machine: Machine, up: Up) -> None:
    up()
    secret = machine.secret()
    status, said = up(image=OTHER_IMAGE)
    assert (status, counts(said)["updated"], counts(said)["same"]) == (0, 1, 4)
    assert machine.values()["image"] == OTHER_IMAGE
    assert machine.secret() == secret
    assert (len(secret["password"]), len(secret["token"])) == (16, 48)


def test_two_machines_draw_two_passwords(machine: Machine, up: Up) -> None:
    up()
    first = machine.secret()
    machine.state.unlink()
    up()
    assert machine.secret()["password"] != first["password"]
    assert machine.secret()["token"] != first["token"]


def test_no_secret_is_in_arguments_values_or_on_screen(machine: Machine, up: Up) -> None:
    shown = up()[1] + up(verb="output")[1] + up("--json", verb="output")[1] + up(image=OTHER_IMAGE, verb="preview")[1]
    calls = (machine.home / "calls").read_text()
    for secret in (*machine.secret().values(), "token-of-the-cluster"):
        assert secret not in shown
        assert secret not in calls
        assert secret not in (machine.home / "values.json").read_text()
    assert "[secret]" in shown


def test_the_state_is_its_owners_alone_and_no_private_file_stays(machine: Machine, up: Up) -> None:
    up()
    assert stat.S_IMODE(machine.state.stat().st_mode) == 0o600
    assert sorted(path.name for path in machine.state.parent.iterdir()) == ["engine-state.json", "engine.lock"]


def test_output_shows_secrets_only_when_asked(machine: Machine, up: Up) -> None:
    up()
    password = machine.secret()["password"]
    assert json.loads(up("--json", verb="output")[1])["password"] == "[secret]"
    assert json.loads(up("--json", "--show-secrets", verb="output")[1])["password"] == password
    assert up("password", verb="output") == (0, f"{password}\n")
    assert up("nonsense", verb="output")[0] == 1


def test_output_before_up_says_what_to_do(up: Up) -> None:
    assert up(verb="output") == (1, "error: stack 'dev' has not been made. Fix: make up\n")


def test_an_object_that_somebody_deleted_is_made_again(machine: Machine, up: Up) -> None:
    up()
    (machine.home / "objects" / "future-dev.Secret.future-dev-auth").unlink()
    status, said = up()
    assert (status, counts(said)["updated"]) == (0, 1)
    assert "future-dev.Secret.future-dev-auth" in machine.objects()


def test_a_resource_that_left_the_program_is_deleted(machine: Machine, up: Up) -> None:
    up()
    status, said = up("--config", "createNamespace=false")
    assert (status, counts(said)["deleted"]) == (0, 1)
    assert machine.objects() == {"future-dev.Secret.future-dev-auth"}


def test_another_namespace_replaces_what_lives_in_it_and_removes_the_old(machine: Machine, up: Up) -> None:
    up()
    status, said = up("--config", "namespace=elsewhere")
    assert status == 0, said
    assert counts(said)["replaced"] == 3
    assert [call[2] for call in machine.calls("helm", "uninstall")] == ["future-dev"]
    assert "Namespace.future-dev" not in machine.objects()
    assert counts(up("--config", "namespace=elsewhere")[1])["same"] == 5


def test_down_removes_in_reverse_order_and_leaves_no_state(machine: Machine, up: Up) -> None:
    up()
    (machine.home / "calls").unlink()
    status, said = up(verb="down")
    assert (status, counts(said)["deleted"]) == (0, 5)
    assert machine.objects() == set()
    order = [
        re.search(r"(Release|Secret|Namespace)$", line.split()[2]) for line in said.splitlines() if line[2:3] == "-"
    ]
    assert [found.group() for found in order if found and "Kept" not in found.string] == [
        "Release",
        "Secret",
        "Namespace",
    ]
    assert not machine.state.exists()
    assert up(verb="down")[0] == 0


def test_down_where_the_cluster_is_gone_says_how_to_forget_it(machine: Machine, up: Up) -> None:
    up()
    machine.release.unlink()
    (machine.home / "unreachable").touch()
    status, said = up(verb="down")
    assert status == 1
    assert "down --forget" in said
    assert machine.state.exists()
    assert up("--forget", verb="down")[0] == 0
    assert not machine.state.exists()


def test_preview_shows_the_difference_and_changes_nothing(machine: Machine, up: Up) -> None:
    status, said = up(verb="preview")
    assert (status, counts(said)["created"]) == (0, 5)
    assert machine.objects() == set()
    assert not machine.state.exists()
    up()
    status, said = up("--config", "workers=7", verb="preview")
    assert (status, counts(said)["updated"]) == (0, 1)
    assert "values.worker.replicas: 4 => 7" in said
    assert len(machine.calls("helm", "upgrade")) == 1
    assert counts(up("--config", "createNamespace=false", verb="preview")[1])["deleted"] == 1
    assert "Namespace.future-dev" in machine.objects()


def test_an_image_that_does_not_exist_is_told_in_the_registrys_words_and_quickly(machine: Machine, up: Up) -> None:
    machine.mode("hang")
    machine.pods(pod("ErrImagePull", 'failed to pull "nope": not found'))
    started = time.monotonic()
    status, said = up()
    assert time.monotonic() - started < 15
    assert status == 1
    assert 'pod future-dev-worker-1: ErrImagePull: failed to pull "nope": not found' in said
    assert not machine.release.exists(), "a failed install was left behind"
    machine.mode("ready")
    machine.pods()
    assert up()[0] == 0, "a second run did not mend it"


def test_a_crashing_container_is_told_with_its_last_words(machine: Machine, up: Up) -> None:
    machine.mode("hang")
    machine.pods(pod("CrashLoopBackOff", restarts=2))
    status, said = up()
    assert status == 1
    assert "ended 2 times, last with exit code 3" in said
    assert "the last thing it said" in said


def test_a_failed_upgrade_goes_back_to_the_last_good_revision(machine: Machine, up: Up) -> None:
    up()
    machine.mode("refuse")
    status, said = up(image=OTHER_IMAGE)
    assert status == 1
    assert "context deadline exceeded" in said
    assert len(machine.calls("helm", "rollback")) == 1
    machine.mode("ready")
    status, said = up(image=OTHER_IMAGE)
    assert (status, counts(said)["updated"]) == (0, 1)


@pytest.mark.parametrize("stuck", ["pending-install", "pending-upgrade", "failed"])
def test_a_release_that_a_killed_run_left_behind_is_recovered(machine: Machine, up: Up, stuck: str) -> None:
    history = ["deployed", stuck] if stuck == "pending-upgrade" else [stuck]
    machine.release.write_text(json.dumps({"status": stuck, "history": history}))
    status, said = up()
    assert status == 0, said
    assert json.loads(machine.release.read_text())["status"] == "deployed"


def test_a_second_run_at_the_same_time_is_refused(machine: Machine, up: Up) -> None:
    machine.state.parent.mkdir(parents=True)
    holder = subprocess.Popen(
        ["flock", str(machine.state.with_name("engine.lock")), "sleep", "30"], start_new_session=True
    )
    try:
        time.sleep(0.3)
        status, said = up()
    finally:
        os.killpg(holder.pid, signal.SIGTERM)
        holder.wait()
    assert status == 1
    assert "another run is at work" in said
    assert up()[0] == 0


def test_ctrl_c_while_helm_waits_leaves_a_state_from_which_the_next_run_goes_on(machine: Machine, up: Up) -> None:
    machine.mode("hang")
    process = subprocess.Popen(
        [sys.executable, "-m", "local.engine", "up", "--config", f"image={IMAGE}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 30
    while not (machine.home / "hanging").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    # As a terminal does: to every process of the group.
    os.killpg(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert "goes on from here" in said
    assert len(State.load(machine.state).resources) == 5, "the provider and all that was made before the release"
    secret = machine.secret()
    machine.mode("ready")
    status, said = up()
    assert (status, counts(said)["created"], counts(said)["same"]) == (0, 1, 4)
    assert machine.secret() == secret


@pytest.mark.parametrize("content", ["{", "[]", '{"version": 99}', '{"version": 1}'])
def test_a_state_that_cannot_be_read_is_said_and_not_overwritten(machine: Machine, up: Up, content: str) -> None:
    machine.state.parent.mkdir(parents=True)
    machine.state.write_text(content)
    status, said = up()
    assert status == 1
    assert str(machine.state) in said
    assert machine.state.read_text() == content


def test_a_full_disk_keeps_the_old_state(machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    state = State(tmp_path / "state.json", outputs={"a": 1})
    state.save()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    state.outputs = {"a": 2}
    with pytest.raises(UserError, match="No space left on device"):
        state.save()
    assert State.load(tmp_path / "state.json").outputs == {"a": 1}
    assert not list(tmp_path.glob(".state.json.*"))


def test_a_stack_in_a_cloud_is_refused(up: Up) -> None:
    status, said = up("--stack", "campus")
    assert status == 1
    assert "cloud 'kubeconfig'" in said
    assert "pulumi up --stack campus" in said


def test_a_stack_that_does_not_exist_is_said(up: Up) -> None:
    assert "Pulumi.nonesuch.yaml does not exist" in up("--stack", "nonesuch")[1]


def test_beside_the_pulumi_cli_it_refuses_unless_told(
    machine: Machine, up: Up, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli = machine.home / "cli"
    cli.mkdir()
    (cli / "pulumi").write_text("#!/bin/sh\n")
    (cli / "pulumi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{cli}:/usr/bin:/bin")
    status, said = up()
    assert status == 1
    assert "the Pulumi CLI is installed" in said
    assert engine.main(["--beside-pulumi", "up", "--config", f"image={IMAGE}"]) == 0


def test_wrong_settings_are_told_as_the_program_tells_them(machine: Machine, up: Up) -> None:
    status, said = up("--config", "workers=four", "--config", "wokers=3")
    assert status == 1
    assert "2 settings are wrong in stack 'dev'" in said
    assert "did you mean workers?" in said
    assert "Without the Pulumi CLI" in said
    assert "Traceback" not in said


def test_a_missing_tool_is_named(up: Up, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUTURE_KUBERNETES_BIN", "/nowhere")
    monkeypatch.setenv("PATH", "/nowhere")
    status, said = up()
    assert status == 1
    assert "kubectl is not installed" in said


def test_an_unreachable_cluster_is_said_with_its_address(machine: Machine, up: Up) -> None:
    (machine.home / "unreachable").touch()
    status, said = up()
    assert status == 1
    assert "https://10.0.0.1:6443 cannot be used: The connection to the server was refused" in said
    assert "Traceback" not in said


def test_a_password_comes_by_the_environment_and_by_no_argument(
    machine: Machine, up: Up, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "can be read by everybody" in up("--config", "password=long-enough-1")[1]
    monkeypatch.setenv(engine.PASSWORD_VARIABLE, "long-enough-1")
    assert up()[0] == 0
    assert machine.secret()["password"] == "long-enough-1"


def test_a_tag_in_the_registry_on_this_machine_is_pinned(machine: Machine, up: Up) -> None:
    server = subprocess.Popen(
        [
            sys.executable,
            "-c",
            textwrap.dedent(
                """
                import http.server
                class Registry(http.server.BaseHTTPRequestHandler):
                    def do_HEAD(self):
                        self.send_response(200 if self.path == "/v2/r/manifests/1.0" else 404)
                        self.send_header("Docker-Content-Digest", "sha256:" + "ef" * 32)
                        self.end_headers()
                server = http.server.HTTPServer(("127.0.0.1", 0), Registry)
                print(server.server_port, flush=True)
                server.serve_forever()
                """
            ),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert server.stdout
    port = server.stdout.readline().strip()
    try:
        status, said = up(image=f"127.0.0.1:{port}/r:1.0")
        assert status == 0, said
        assert machine.values()["image"] == f"127.0.0.1:{port}/r:1.0@sha256:" + "ef" * 32
        status, said = up(image=f"127.0.0.1:{port}/r:2.0")
        assert status == 1
        assert "is not in the registry" in said
    finally:
        server.terminate()
        server.wait()
