"""Cleans up after a killed Pulumi CLI: its lock, its plugins, and its incomplete Helm release."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pulumi import automation

from common import processes
from common.errors import UserError
from common.kubectl import Kubectl
from common.patience import patience
from common.progress import step
from local.helm import HelmRelease

RELEASE_TYPE = "kubernetes:helm.sh/v3:Release"
ORPHAN_SECONDS = 10.0


def unlock(backend: Path) -> None:
    """Deletes the locks of CLIs that have ended. Raises UserError if one still runs."""
    for lock in backend.glob(".pulumi/locks/**/*.json"):
        owner = processes.find(json.loads(lock.read_text())["pid"])
        if owner and owner.name == "pulumi":
            raise UserError(
                f"Pulumi is updating this stack already (process {owner.pid})\n"
                f"    fix: wait until it ends, or kill -INT {owner.pid}; then run the same command again"
            )
        lock.unlink(missing_ok=True)


def recover(stack: automation.Stack, config_file: str, helm: str, kubectl: Kubectl) -> None:
    """Rolls back the pending operations of a killed CLI.

    Pulumi only knows that they began, and would ask the user for their outcome. Helm refuses to update an incomplete
    release.
    """
    deployment: Mapping[str, Any] = stack.export_stack().deployment or {}
    pending = deployment.get("pending_operations") or []
    if not pending:
        return
    with step("Recovering from an interrupted run") as progress:
        _end_orphans(stack.workspace.env_vars["PULUMI_BACKEND_URL"])
        for operation in pending:
            if operation["resource"]["type"] != RELEASE_TYPE:
                continue
            inputs = operation["resource"]["inputs"]
            release = HelmRelease(
                helm, Kubectl(kubectl.program, kubectl.kubeconfig, inputs["namespace"]), inputs["name"]
            )
            if operation["type"] == "creating":
                # Also if Helm had completed it: without outputs no user has its password, so it holds no files.
                # (`refresh --import-pending-creates` would keep it, but had no effect in Pulumi 3.259.)
                release.uninstall()
            else:
                release.recover(progress)
        stack.refresh(clear_pending_creates=True, config_file=config_file, show_secrets=False)


def _end_orphans(backend_url: str) -> None:
    """Kills the plugins of a killed CLI, with their children.

    Plugins continue for up to five minutes (sdk/go/common/util/rpcutil/health.go in pulumi/pulumi). If their release
    failed then, they would roll back that of the next run.
    """
    deadline = time.monotonic() + patience(ORPHAN_SECONDS)
    while (orphans := _orphans(backend_url)) and time.monotonic() < deadline:
        for pid in orphans:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def _orphans(backend_url: str) -> list[int]:
    """Return the PIDs of plugins without a CLI as parent, and of their children."""
    known = {process.pid: process for process in processes.running()}
    # A user's shell may have the variable too, so the name must match as well.
    ours = [
        process
        for process in known.values()
        if processes.has_environment(process.pid, f"PULUMI_BACKEND_URL={backend_url}")
    ]

    def has_cli(process: processes.Process) -> bool:
        parent = known.get(process.parent)
        return parent is not None and parent.name == "pulumi"

    plugins = [process.pid for process in ours if process.name.startswith("pulumi-") and not has_cli(process)]
    # Plugins before their children: a plugin would start the next child when one ends.
    return [*plugins, *(process.pid for process in ours if process.parent in plugins)]
