"""Runs the program on clusters that exist already: the one on this machine, and one on campus."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from components.clouds.allocatable import Allocatable
from components.clouds.existing import cluster as existing
from components.clouds.existing import local
from tests.unit.cloud_mocks import Recording, Refused, run

IMAGE = "127.0.0.1:5000/future-kubernetes@sha256:" + "ab" * 32
KUBECONFIG = """
apiVersion: v1
kind: Config
clusters:
- {name: one, cluster: {server: "https://10.0.0.1:6443", certificate-authority-data: Y2E=}}
- {name: two, cluster: {server: "https://10.0.0.2:6443", certificate-authority-data: Y2I=}}
users: [{name: me, user: {token: the-token-of-the-cluster}}]
contexts:
- {name: first, context: {cluster: one, user: me}}
- {name: second, context: {cluster: two, user: me}}
current-context: first
"""
LOCAL = {"cloud": "local", "image": IMAGE, "workers": "4"}
CAMPUS = {"cloud": "kubeconfig", "image": IMAGE, "workers": "4"}


@pytest.fixture
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Allocatable]:
    """A kubeconfig, and the nodes that its cluster answers with."""
    path = tmp_path / "kubeconfig"
    path.write_text(KUBECONFIG)
    monkeypatch.setenv("FUTURE_KUBERNETES_KUBECONFIG", str(path))
    monkeypatch.setenv("KUBECONFIG", str(path))
    monkeypatch.setenv("PULUMI_CONFIG_SECRET_KEYS", '["future-kubernetes:password"]')
    found = [Allocatable(4000, 16000)]
    monkeypatch.setattr(existing, "read_nodes", lambda *_args: found)
    monkeypatch.setattr(local, "read_nodes", lambda *_args: found)
    for module in (existing, local):
        monkeypatch.setattr(module, "check_home", lambda *_args: None)
    monkeypatch.setattr(existing, "check_namespace", lambda *_args: None)
    return found


def write_kubectl(folder: Path, cases: Mapping[str, str]) -> Path:
    """A kubectl that runs the shell command of the first pattern that fits its arguments; returns its calls' file."""
    lines = "".join(f"{pattern}) {command} ;;\n" for pattern, command in cases.items())
    (folder / "kubectl").write_text(f'#!/bin/sh\necho "$@" >>{folder}/calls\ncase "$*" in\n{lines}esac\n')
    (folder / "kubectl").chmod(0o755)
    return folder / "calls"


def printing(file: Path, error: str = "") -> str:
    """Shell command that prints a file, or fails with an error."""
    return f"echo '{error}' >&2; exit 1" if error else f"cat {file}"


def program(config: dict[str, Any], **options: Any) -> Recording:
    """Runs the program as stack `dev`. A registry answers with one digest."""
    answers = {"docker:index/getRegistryImage:getRegistryImage": lambda args: {"sha256Digest": "sha256:" + "cd" * 32}}
    return run(config, answers, lambda type_, name, inputs: {}, stack_name="dev", **options)


def refusal(config: dict[str, Any]) -> str:
    """The message with which the program refuses `config` before it creates anything."""
    with pytest.raises(Refused) as caught:
        program(config)
    assert caught.value.nothing_was_made
    assert "RunError" in [type_.__name__ for type_ in type(caught.value.error).__mro__], "printed with a stack trace"
    return str(caught.value)


def values(recording: Recording) -> dict[str, Any]:
    """The chart's values."""
    return dict(recording.one("helm.sh/v3:Release").inputs["values"])
