"""Chooses the engine of stack dev: the Pulumi CLI from PATH or from Pulumi's installer, else the stand-in.

Both create the same stack with the same outputs.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from pulumi.automation import PulumiCommand

from common.errors import UserError
from common.paths import cache_dir
from common.progress import step
from local.cluster import Node
from local.pulumi_engine import PulumiEngine
from local.standin import apply


class Engine(Protocol):
    """Interface of an engine for `future-kubernetes up`."""

    def up(self, stack: str, config: Mapping[str, str]) -> Mapping[str, Any]:
        """Creates or updates the stack; returns its outputs, secrets included."""


class StandIn:
    """The project's stand-in for the Pulumi engine."""

    def up(self, stack: str, config: Mapping[str, str]) -> Mapping[str, Any]:
        """Creates or updates the stack; returns its outputs, secrets included."""
        return apply.up(stack, config)


def choose(node: Node, stack: str) -> Engine:
    """The engine on this machine. Programs that it starts find the node's kubeconfig and programs."""
    os.environ["FUTURE_KUBERNETES_KUBECONFIG"] = str(node.kubeconfig)
    os.environ["FUTURE_KUBERNETES_BIN"] = str(node.programs)
    os.environ["PATH"] = f"{os.environ['PATH']}{os.pathsep}{node.programs}"
    if apply.state_path().exists():
        return StandIn()  # a stack has one state: `down` comes before a change of engine
    command = pulumi_command()
    return PulumiEngine(command, node, stack) if command else StandIn()


def pulumi_command() -> PulumiCommand | None:
    """The Pulumi CLI on PATH, else from Pulumi's installer in the cache folder; None where neither works."""
    found = shutil.which("pulumi")
    if found:
        try:
            return PulumiCommand()
        except Exception as error:  # raised by the SDK and by the program
            raise UserError(
                f"the Pulumi CLI at {found} cannot be used: {error}\n"
                "    fix: update it (https://www.pulumi.com/docs/install/), or take it off PATH"
            ) from None
    folder = cache_dir() / "pulumi"
    if Path(folder, "bin", "pulumi").exists():
        return PulumiCommand(root=str(folder))
    with step("Installing the Pulumi CLI") as progress:
        try:
            return PulumiCommand.install(root=str(folder))
        except Exception as error:  # the installer's script and the network raise many kinds
            progress.outcome = f"not available here ({type(error).__name__}); using the project's stand-in instead"
    return None
