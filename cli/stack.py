"""Opens a stack: finds its scheduler and its outputs.

Stack dev is read from the file that `future-kubernetes up` leaves, every other stack by the Pulumi CLI.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from common.errors import UserError
from common.kubectl import Kubectl
from common.local_stack import LocalStack
from common.paths import LOCAL_STACK, REPO
from common.private_files import private_file
from common.processes import wait_for_exit

INSTALL_PULUMI = "https://www.pulumi.com/docs/install/"
INSTALL_KUBECTL = "https://kubernetes.io/docs/tasks/tools/"


@dataclass(frozen=True)
class Stack:
    """A stack that is up. kubectl: in the stack's namespace. up, destroy: the commands that do so.

    logs: the folder with the logs of the node, where that is this machine.
    """

    name: str
    kubectl: Kubectl
    release: str
    up: str
    destroy: tuple[str, ...]
    outputs: Mapping[str, Any] = field(default_factory=dict, repr=False)
    logs: str = ""

    @property
    def title(self) -> str:
        """The stack as messages name it."""
        return f"stack {self.name!r}"

    @property
    def status_command(self) -> str:
        """Command that shows the stack's pods."""
        return f"future-kubernetes status --stack {self.name}"

    @property
    def password_command(self) -> str:
        """Command that prints the IDE's password."""
        return f"future-kubernetes password --stack {self.name}"


@contextlib.contextmanager
def opened(name: str) -> Iterator[Stack]:
    """The stack with this name; its kubeconfig is in a private file until the block ends. Raises UserError."""
    outputs: Mapping[str, Any]
    destroy: tuple[str, ...]
    logs = ""
    if name == LOCAL_STACK:
        local = LocalStack.load()
        outputs, kubectl, logs = local.outputs, local.kubectl, local.logs
        up, destroy = "make up", (sys.executable, "-m", "cli", "down")
    else:
        outputs, kubectl, pulumi = _by_pulumi(name)
        up, destroy = f"pulumi up --stack {name}", (pulumi, "destroy", "--yes", "--stack", name)
    try:
        kubeconfig, namespace = str(outputs["kubeconfig"]), str(outputs["namespace"])
        # The output `copyTo` names the release; a namespace may hold several.
        release = re.findall(r"app\.kubernetes\.io/instance=([^,\s]+)", outputs["copyTo"])[0]
    except (KeyError, IndexError):
        raise UserError(f"stack {name!r} is not up: it has no scheduler among its outputs.\nFix: {up}") from None
    with private_file(kubeconfig) as file:
        yield Stack(name, Kubectl(kubectl, file, namespace), release, up, destroy, outputs, logs)


def _by_pulumi(name: str) -> tuple[Mapping[str, Any], str, str]:
    """The stack's outputs, and the paths of kubectl and pulumi.

    One start of the CLI. The Automation API starts it four times for the same: version, select, and outputs twice.
    """
    pulumi, kubectl = shutil.which("pulumi"), shutil.which("kubectl")
    if pulumi is None:
        raise UserError(
            f"the outputs of stack {name!r} are read by the Pulumi CLI, and there is no `pulumi` on PATH.\n"
            f"Fix: install it ({INSTALL_PULUMI}). Only stack 'dev' of `make up` needs no Pulumi CLI."
        )
    if kubectl is None:
        raise UserError(
            f"the cluster is reached by kubectl, and there is no `kubectl` on PATH.\n"
            f"Fix: install it ({INSTALL_KUBECTL})"
        )
    command = [pulumi, "stack", "output", "--json", "--show-secrets", "--stack", name, "--non-interactive"]
    done = subprocess.run(command, cwd=REPO, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UserError(
            f"stack {name!r} cannot be read: {done.stderr.strip()[-800:]}\n"
            f"Fix: pulumi login, then one of `pulumi stack ls`; for a new stack: pulumi stack init {name} && "
            f"pulumi up --stack {name}"
        )
    return json.loads(done.stdout), kubectl, pulumi


def destroy(stack: Stack) -> None:
    """Destroys the stack; its engine's output goes to standard error. Raises UserError, or KeyboardInterrupt."""
    with subprocess.Popen(stack.destroy, cwd=REPO, stdin=subprocess.DEVNULL, stdout=sys.stderr) as process:
        status = wait_for_exit(process)
    if status != 0:
        raise UserError(f"stack {stack.name!r} was not destroyed; the reason is above.\nFix: {' '.join(stack.destroy)}")
