"""A machine on which the stand-in runs: a kubectl and a helm that keep their cluster in a folder."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from local import __main__ as command
from local import stack_config
from local.standin import apply

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
if arguments[0] == "--kubeconfig":  # as the program itself calls it
    arguments[:2] = ["--kubeconfig=" + arguments[1]]
options = dict(a.split("=", 1) for a in arguments if a.startswith("--") and "=" in a)
arguments = [a for a in arguments if not a.startswith("--")]
kubeconfig = pathlib.Path(options["--kubeconfig"])
assert kubeconfig.stat().st_mode & 0o077 == 0, "others can read the kubeconfig"
objects = home / "objects"
space = options["--namespace"] + "/" if "--namespace" in options else ""
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
elif arguments[:2] == ["get", "pvc"]:
    sys.exit("Error from server (NotFound): no such claim")
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
    """A folder that plays the cluster, and the environment that points to it."""

    home: Path

    def calls(self, tool: str, first: str) -> list[list[str]]:
        every = [json.loads(line) for line in (self.home / "calls").read_text().splitlines()]
        return [call for call in every if call[0] == tool and first in call]

    def objects(self) -> set[str]:
        return {path.name for path in (self.home / "objects").iterdir()}

    @property
    def state(self) -> Path:
        return apply.state_path()

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
    monkeypatch.delenv("FUTURE_KUBERNETES_CLUSTER", raising=False)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.delenv(stack_config.PASSWORD_VARIABLE, raising=False)
    monkeypatch.setattr("local.helm.POLL_SECONDS", 0.1)
    monkeypatch.setattr("image.broker.diagnosis.PERMANENT_GRACE_SECONDS", 0.3)
    return Machine(tmp_path)


Up = Callable[..., tuple[int, str]]


@pytest.fixture
def standin(machine: Machine, capfd: pytest.CaptureFixture[str]) -> Up:
    """Runs an action of the stand-in in this process; returns exit status and everything printed."""

    def run(action: str = "up", *config: str, image: str = IMAGE) -> tuple[int, str]:
        pairs = [f"image={image}", *config] if action == "up" else []
        status = command.main(["standin", action, *(f"--config={pair}" for pair in pairs)])
        printed = capfd.readouterr()
        return status, printed.out + printed.err

    return run


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
    """The counts of the last line."""
    line = next(line for line in text.splitlines() if line.startswith("Resources:"))
    return {word: int(number) for number, word in re.findall(r"(\d+) (created|updated|deleted|unchanged)", line)}
