"""The stack that a command works on: its outputs, its kubeconfig, and a fix where it cannot be reached."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from cli import main, stack
from common.errors import UserError
from common.local_stack import LocalStack
from common.paths import REPO

pytestmark = pytest.mark.timeout(60)


def test_the_kubeconfig_is_private_and_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(tmp_path, monkeypatch, {"kubeconfig": "secret: text", "namespace": "n", "copyTo": _COPY_TO})
    with stack.opened("team-a") as opened:
        kubeconfig = opened.kubectl.kubeconfig
        assert kubeconfig.read_text() == "secret: text"
        assert stat.S_IMODE(kubeconfig.stat().st_mode) == 0o600
        assert (opened.kubectl.namespace, opened.release) == ("n", "future-a")
        assert opened.destroy[1:] == ("destroy", "--yes", "--stack", "team-a")
    assert not kubeconfig.exists()
    assert (tmp_path / "asked").read_text().split() == [
        "stack", "output", "--json", "--show-secrets", "--stack", "team-a", "--non-interactive",
    ]  # fmt: skip


def test_stack_dev_is_read_from_ups_file_without_pulumi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUTURE_KUBERNETES_STATE", str(tmp_path / "state"))
    (tmp_path / "kubectl").write_text("#!/bin/sh\necho pod-1 Running\n")
    (tmp_path / "kubectl").chmod(0o755)
    outputs = {"kubeconfig": "of-dev", "namespace": "n", "copyTo": _COPY_TO, "password": "drawn", "url": "http://x"}
    LocalStack(str(tmp_path / "kubectl"), "/the/logs", outputs).save()
    assert stat.S_IMODE(LocalStack.path().stat().st_mode) == 0o600
    program = textwrap.dedent("""
        import sys
        from cli.main import main
        status = main(["status"]) or main(["password"])
        assert not {"local", "pulumi", "components"} & sys.modules.keys()
        sys.exit(status)
    """)
    done = subprocess.run([sys.executable, "-c", program], cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines() if line]
    assert ["pod-1", "Running"] in lines
    assert ["password", "[secret]"] in lines
    assert ["logs", "/the/logs"] in lines
    assert lines[-1] == ["drawn"]
    assert "of-dev" not in done.stdout


def test_stack_dev_that_is_not_up_has_a_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FUTURE_KUBERNETES_STATE", str(tmp_path))
    assert main.main(["password"]) == 1
    assert main.main(["runs"]) == 125
    assert capsys.readouterr().err.count("Fix: make up") == 2


_COPY_TO = "kubectl cp MY_FILE $(kubectl get pods --selector app.kubernetes.io/instance=future-a,component=scheduler)"


@pytest.mark.parametrize(
    ("outputs", "missing", "words"),
    [
        ({}, None, ["'team-a' is not up", "Fix: pulumi up --stack team-a"]),
        (None, None, ["no stack named", "pulumi stack ls"]),
        ({}, "kubectl", ["kubectl", "https://kubernetes.io/docs/tasks/tools/"]),
        ({}, "pulumi", ["pulumi", "https://www.pulumi.com/docs/install/"]),
    ],
)
def test_stack_that_cannot_be_reached_is_reported_with_fix(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    outputs: dict[str, str] | None,
    missing: str | None,
    words: list[str],
) -> None:
    _pretend(tmp_path, monkeypatch, outputs)
    if missing:
        (tmp_path / missing).unlink()
    with pytest.raises(UserError) as raised, stack.opened("team-a"):
        pass
    for word in words:
        assert word in str(raised.value)


def _pretend(folder: Path, monkeypatch: pytest.MonkeyPatch, outputs: dict[str, str] | None) -> None:
    """A `pulumi` with these outputs and a `kubectl`, and nothing else on PATH."""
    answer = f"echo '{json.dumps(outputs)}'" if outputs is not None else "echo 'no stack named' >&2; exit 255"
    for name, text in (("pulumi", f'echo "$@" > {folder}/asked; {answer}'), ("kubectl", "")):
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
