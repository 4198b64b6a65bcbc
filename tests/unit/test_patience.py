"""FUTURE_KUBERNETES_PATIENCE widens every time limit of the commands and of the local node."""

from __future__ import annotations

import ast
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from cli import client, connect, pod_agent
from common.errors import UserError
from common.kubectl import Kubectl
from common.paths import REPO
from common.patience import VARIABLE, patience
from common.progress import Step
from local import helm
from local.helm import HelmRelease

FOLDERS = ("cli", "common", "local")
# Calls whose argument is widened: by this function, or inside of the called one.
WIDENED_CALLS = {"patience", "kubectl.run", "self.kubectl.run", "self.stack.kubectl.run"}
NOT_LIMITS = {
    "cli/client.py: MAX_DELAY_SECONDS": "a pause between attempts",
    "cli/connect.py: CHECK_SECONDS": "a pause between checks",
    "cli/connect.py: MAX_DELAY_SECONDS": "a pause between attempts",
    "cli/pod_agent.py: FOLLOW_SECONDS": "ends an agent without a client; the client asks again",
    "cli/pod_agent.py: HEARTBEAT_SECONDS": "a pause between heartbeats",
    "common/progress.py: PLAIN_INTERVAL_SECONDS": "a pause between lines on the screen",
    "local/helm.py: POLL_SECONDS": "a pause between looks",
    "local/pulumi_engine.py: POLL_SECONDS": "a pause between looks",
    "local/node/services.py: FIRST_DELAY_SECONDS": "has PATIENCE in its value",
    "local/node/supervisor.py: FIRST_DELAY_SECONDS": "has PATIENCE in its value",
    "local/node/supervisor.py: _LONGEST_DELAY_SECONDS": "has PATIENCE in its value",
    "local/node/supervisor.py: _STEADY_SECONDS": "has PATIENCE in its value",
}
"""Constants named ..._SECONDS that patience does not multiply where they are used, each with the reason."""

# An option or a key of a configuration file with a duration, such as `--timeout=30s` and `leaseDurationSeconds: 40`.
_WRITTEN = re.compile(r"(?:[-\w]*(?:timeout|grace-period|Timeout|LeaseDurationSeconds|Deadline)[=: ]\s*|timeout )[1-9]")


def limits(path: str, source: str) -> list[str]:
    """Return each time limit in a Python file that patience does not widen, as `line: code`."""
    tree = ast.parse(source)
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}

    def widened(node: ast.AST) -> bool:
        """True if the value is an argument of a call that widens it, or is multiplied by PATIENCE."""
        while (parent := parents.get(node)) is not None and not isinstance(parent, ast.stmt):
            if isinstance(parent, ast.Call) and ast.unparse(parent.func) in WIDENED_CALLS:
                return True
            if isinstance(parent, ast.BinOp) and "PATIENCE" in (ast.unparse(parent.left), ast.unparse(parent.right)):
                return True
            node = parent
        return False

    def code(node: ast.AST) -> str:
        while not isinstance(parents[node], ast.stmt) and not isinstance(node, ast.keyword):
            node = parents[node]
        return f"{getattr(node, 'lineno', 0)}: {ast.unparse(node)[:90]}"

    def found() -> Iterator[ast.AST]:
        for node in ast.walk(tree):
            match node:
                case ast.Constant(value=str(text)) if _WRITTEN.search(text) and not _is_docstring(parents[node]):
                    yield node
                case ast.Constant(value="--timeout") | ast.Constant(value="--request-timeout"):
                    yield node  # as two words the value is not checked: write --timeout=...
                case ast.keyword(arg="timeout", value=value) if _fixed(value) and not widened(value):
                    yield value
                case ast.Call(func=ast.Attribute(attr="wait" | "join" | "end"), args=[*_, value]) if _is_number(
                    value, above=1
                ) and not widened(value):
                    yield value
                case ast.BinOp(left=left, op=ast.Add(), right=value) if (
                    "monotonic()" in ast.unparse(left) and _fixed(value) and not widened(value)
                ):
                    yield value
                case ast.Name(id=name, ctx=ast.Load()) if name.endswith("_SECONDS") and not widened(node):
                    if f"{path}: {name}" not in NOT_LIMITS:
                        yield node

    return sorted({f"{path}: {code(node)}" for node in found()})


def _is_docstring(parent: ast.AST) -> bool:
    return isinstance(parent, ast.Expr)


def _is_number(node: ast.AST, above: float = 0) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float) and node.value > above


def _fixed(node: ast.AST) -> bool:
    """True for a number, and for a constant of a module."""
    return _is_number(node) or (isinstance(node, ast.Name) and node.id.isupper())


def files() -> list[Path]:
    return [path for folder in FOLDERS for path in sorted((REPO / folder).rglob("*.py"))]


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(REPO)))
def test_every_time_limit_is_widened_by_patience(path: Path) -> None:
    assert limits(str(path.relative_to(REPO)), path.read_text()) == []


@pytest.mark.parametrize(
    "line",
    [
        "run(['kubectl', 'rollout', 'status', '--timeout=300s'])",
        "run(['helm', 'uninstall', '--timeout', f'{patience(180):.0f}s'])",
        "run([f'--pod-running-timeout=20s'])",
        "urlopen(url, timeout=60)",
        "urlopen(url, timeout=LOOK_SECONDS)",
        "process.wait(20)",
        "processes.end(process, STOP_SECONDS)",
        "deadline = time.monotonic() + 15",
        "deadline = time.monotonic() + _STOP_SECONDS",
        "late = now - since > RETRY_SECONDS",
        "text = f'''nodeLeaseDurationSeconds: 40\n'''",
        "text = 'timeout 30 future-report'",
    ],
)
def test_limit_that_ignores_the_setting_is_found(line: str) -> None:
    assert len(limits("local/x.py", line)) == 1


@pytest.mark.parametrize(
    "line",
    [
        "run([f'--timeout={patience(300):.0f}s'])",
        "urlopen(url, timeout=patience(60))",
        "kubectl.run('get', timeout=20)",
        "deadline = time.monotonic() + 30 * PATIENCE",
        "late = now - since > patience(RETRY_SECONDS)",
        "process.wait(0.1)",
    ],
)
def test_widened_limit_and_pause_are_not_reported(line: str) -> None:
    assert limits("local/x.py", line) == []


def test_every_exception_from_the_rule_is_still_used() -> None:
    for entry in NOT_LIMITS:
        path, _, name = entry.partition(": ")
        used = re.findall(rf"\b{name}\b", (REPO / path).read_text())
        assert len(used) > 1, entry


def test_patience_widens_every_limit_and_refuses_nonsense(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert patience(30) == 30
    monkeypatch.setenv(VARIABLE, "20")
    assert patience(30) == 600
    for wrong in ("0", "-1", "fast", "1e9"):
        monkeypatch.setenv(VARIABLE, wrong)
        with pytest.raises(UserError, match=r"allowed: a number from 1 to 1000"):
            patience(30)


def test_kubectl_gets_the_widened_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(VARIABLE, "20")
    seen: list[float] = []

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        seen.append(cast(float, options["timeout"]))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    Kubectl("kubectl", tmp_path, "dev").run("get", "pods", timeout=20)
    assert seen == [400]


def test_agent_in_the_pod_takes_the_clients_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pod_agent.patience(10) == 10
    monkeypatch.setattr(pod_agent, "_factor", [20.0])
    assert pod_agent.patience(10) == 200
    assert '"patience": patience(1)' in Path(client.__file__).read_text()
    assert connect.FIRST_SECONDS == 60


class Helm:
    """A helm whose commands answer as told; `status` answers that the cluster is unreachable `times` times."""

    def __init__(self, folder: Path, times: int, upgrade: str) -> None:
        self.log = folder / "calls"
        self.program = folder / "helm"
        self.program.write_text(f"""#!/bin/sh
echo "$*" >> {self.log}
case "$1" in
status)
  if [ "$(grep -c ^status {self.log})" -le {times} ]; then
    echo 'Error: Kubernetes cluster unreachable: Get "https://127.0.0.1:1/version": net/http: TLS handshake timeout' >&2
    exit 1
  fi
  echo '{{"info": {{"status": "deployed"}}}}' ;;
upgrade) {upgrade} ;;
esac
""")
        self.program.chmod(0o755)

    def release(self, folder: Path) -> HelmRelease:
        return HelmRelease(str(self.program), Kubectl("false", folder / "kubeconfig", "dev"), "future")

    def calls(self) -> list[str]:
        return self.log.read_text().splitlines()


def test_helm_gets_the_releases_limit(tmp_path: Path) -> None:
    fake = Helm(tmp_path, 0, "exit 0")
    inputs = {"chart": "chart", "maxHistory": 5, "timeout": 18000}
    fake.release(tmp_path).upgrade(inputs, cast(Step, _Progress()))
    (call,) = [call for call in fake.calls() if call.startswith("upgrade")]
    assert "--timeout=18000s" in call


def test_state_of_a_release_is_asked_again_without_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    assert Helm(tmp_path, 3, "exit 0").release(tmp_path).status() == "deployed"
    monkeypatch.setattr(helm, "UNREACHABLE_SECONDS", 0.0)
    (tmp_path / "calls").unlink()
    with pytest.raises(UserError, match=r"cannot be read: .*TLS handshake timeout"):
        Helm(tmp_path, 3, "exit 0").release(tmp_path).status()


def test_failed_upgrade_keeps_its_reason_where_the_recovery_fails_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(helm, "UNREACHABLE_SECONDS", 0.0)
    # The first status is asked before the upgrade, and answers; the next ones do not.
    fake = Helm(
        tmp_path, 0, f"echo 'Error: the quota is too small' >&2; sed -i s/-le\\ 0/-le\\ 99/ {tmp_path}/helm; exit 1"
    )
    with pytest.raises(UserError, match=r"the quota is too small(.|\n)*then: .*TLS handshake timeout"):
        fake.release(tmp_path).upgrade({"chart": "c", "maxHistory": 5, "timeout": 9}, cast(Step, _Progress()))


class _Progress:
    def note(self, text: str) -> None:
        del text
