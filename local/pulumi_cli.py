"""Which engine brings stack `dev` up: the Pulumi CLI from PATH or from Pulumi's installer, else the stand-in.

Both give the same stack and outputs. Without a login the CLI keeps the state in the cluster's folder, so that `make up`
asks for no account.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import yaml
from pulumi.automation import PulumiCommand

from local import engine as stand_in
from local.cluster import Node
from local.errors import LocalError
from local.paths import REPO, cache_dir, state_dir
from local.progress import step


class StackEngine(Protocol):
    """What `make up` and `make down` need of an engine."""

    def up(self, stack: str, config: Mapping[str, str]) -> Mapping[str, Any]:
        """Makes the stack; returns its outputs, secrets included."""

    def outputs(self, stack: str) -> Mapping[str, Any]:
        """Outputs of the last run, secrets included."""

    def forget(self, stack: str) -> None:
        """Forgets the stack, whose cluster is about to go."""


def engine_for(node: Node, stack: str) -> StackEngine:
    """The engine of this machine; commands that it starts find the node's kubeconfig and programs."""
    os.environ["FUTURE_KUBERNETES_KUBECONFIG"] = str(node.kubeconfig)
    os.environ["FUTURE_KUBERNETES_BIN"] = str(node.programs)
    os.environ["PATH"] = f"{os.environ['PATH']}{os.pathsep}{node.programs}"
    if stand_in.state_path(stack).exists():
        return StandIn()  # one stack, one state: `make down` comes before another engine
    command = _pulumi_command()
    return PulumiEngine(command, node) if command else StandIn()


class StandIn:
    """The project's own stand-in, where the Pulumi CLI cannot be had."""

    def up(self, stack: str, config: Mapping[str, str]) -> Mapping[str, Any]:
        """Makes the stack by `local.engine`."""
        return stand_in.up(stack, config)

    def outputs(self, stack: str) -> Mapping[str, Any]:
        """From the stand-in's state file."""
        return stand_in.outputs(stack)[0]

    def forget(self, stack: str) -> None:
        """Drops the state alone: all that it stands for goes with the cluster."""
        stand_in.down(stack, forget=True)


class PulumiEngine:
    """The Pulumi CLI, with the backend that it is logged in to, else with one in the cluster's folder."""

    def __init__(self, pulumi: str, node: Node) -> None:
        self._pulumi = pulumi
        self._folder = state_dir(node.cluster)
        self._environment = {**os.environ, "PULUMI_SKIP_UPDATE_CHECK": "true"}
        if self._run("whoami", check=False).returncode != 0:
            self._environment |= self._own_backend()

    def up(self, stack: str, config: Mapping[str, str]) -> Mapping[str, Any]:
        """`pulumi up` with `config` over the stack's file, in a copy: the file in the project stays as it is."""
        file = self._config_file(stack, config)
        self._run("stack", "select", stack, "--create")
        shown = subprocess.run(
            [self._pulumi, "up", "--stack", stack, "--config-file", str(file), "--yes", "--skip-preview"],
            cwd=REPO, env=self._environment, check=False,
        )  # fmt: skip
        if shown.returncode != 0:
            raise LocalError("pulumi up failed; its messages are above")
        return self.outputs(stack)

    def outputs(self, stack: str) -> Mapping[str, Any]:
        """`pulumi stack output`."""
        text = self._run("stack", "output", "--stack", stack, "--json", "--show-secrets").stdout
        found: dict[str, Any] = json.loads(text)
        return found

    def forget(self, stack: str) -> None:
        """`pulumi destroy`, and the stack with it."""
        file = self._config_file(stack, {})
        self._run("destroy", "--stack", stack, "--config-file", str(file), "--yes", "--skip-preview")
        self._run("stack", "rm", stack, "--yes")

    def _config_file(self, stack: str, config: Mapping[str, str]) -> Path:
        content = yaml.safe_load((REPO / f"Pulumi.{stack}.yaml").read_text())
        content["config"] |= {f"{stand_in.PROJECT}:{key}": value for key, value in config.items()}
        file = self._folder / f"Pulumi.{stack}.yaml"
        file.write_text(yaml.safe_dump(content))
        return file

    def _own_backend(self) -> dict[str, str]:
        passphrase = self._folder / "pulumi-passphrase"
        if not passphrase.exists():
            with os.fdopen(os.open(passphrase, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
                out.write(secrets.token_urlsafe(32))
        backend = self._folder / "pulumi"
        backend.mkdir(exist_ok=True)
        return {"PULUMI_BACKEND_URL": f"file://{backend}", "PULUMI_CONFIG_PASSPHRASE_FILE": str(passphrase)}

    def _run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [self._pulumi, *arguments, "--non-interactive"],
            cwd=REPO, env=self._environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if check and done.returncode != 0:
            raise LocalError(f"pulumi {arguments[0]} failed: {done.stderr.strip()[-800:]}")
        return done


def _pulumi_command() -> str | None:
    """The CLI on PATH, else as the SDK's installer lays it into the cache folder; None where neither is to be had."""
    found = shutil.which("pulumi")
    if found:
        return found
    folder = cache_dir() / "pulumi"
    installed = folder / "bin" / "pulumi"
    if not installed.exists():
        with step("Looking for the Pulumi CLI") as progress:
            try:
                PulumiCommand.install(root=str(folder))
            except Exception as error:  # whatever the installer's script and network do
                progress.outcome = f"not to be had here ({type(error).__name__}); the project's stand-in serves instead"
    return str(installed) if installed.exists() else None
