"""Where a stack's scheduler is and how it is reached: from the stack's outputs, whichever engine keeps them.

Stack `dev` is asked for in the cluster of `make up`, by that cluster's engine; every other one by the Pulumi CLI.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batch.errors import BatchError
from common.processes import wait_to_its_end

REPO = Path(__file__).resolve().parent.parent
HOW_TO_GET_PULUMI = "https://www.pulumi.com/docs/install/"
HOW_TO_GET_KUBECTL = "https://kubernetes.io/docs/tasks/tools/"


@dataclass(frozen=True)
class Stack:
    """A stack that is up. kubeconfig: a private file. destroy: the command that destroys the stack."""

    name: str
    kubectl: str
    kubeconfig: Path
    namespace: str
    release: str
    destroy: tuple[str, ...]

    def kubectl_command(self, *arguments: str) -> list[str]:
        """The command line of kubectl in the stack's namespace."""
        return [self.kubectl, f"--kubeconfig={self.kubeconfig}", f"--namespace={self.namespace}", *arguments]


@contextlib.contextmanager
def opened(name: str) -> Iterator[Stack]:
    """The stack of that name, with its kubeconfig in a private folder that goes at the end. Raises BatchError."""
    outputs, kubectl, destroy, up = _on_this_machine() if name == "dev" else _by_pulumi(name)
    try:
        kubeconfig, namespace = str(outputs["kubeconfig"]), str(outputs["namespace"])
        # The commands among the outputs name the release; a namespace may hold several.
        release = re.findall(r"app\.kubernetes\.io/instance=([^,\s]+)", outputs["copyTo"])[0]
    except (KeyError, IndexError):
        raise BatchError(f"stack {name!r} is not up: it has no scheduler among its outputs.\nFix: {up}") from None
    # mkdtemp's folders and files are nobody else's (mode 0700 and 0600).
    folder = tempfile.mkdtemp(prefix="future-kubernetes-")
    try:
        file = Path(folder) / "kubeconfig"
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            out.write(kubeconfig)
        yield Stack(name, kubectl, file, namespace, release, destroy)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _on_this_machine() -> tuple[Mapping[str, Any], str, tuple[str, ...], str]:
    try:
        from common.errors import UserError
        from local import cluster, pulumi_cli
        from local.__main__ import CLUSTER
    except ModuleNotFoundError as error:
        raise BatchError(
            f"stack 'dev' needs the project's own Python ({error}).\nFix: .venv/bin/python -m batch ..."
        ) from None
    node = cluster.running(CLUSTER)
    if node is None:
        raise BatchError(
            "stack 'dev' is not up: Kubernetes does not run on this machine.\n"
            "Fix: make up, or name another: --stack NAME"
        )
    try:
        with contextlib.redirect_stdout(sys.stderr):  # the script's output alone goes to standard output
            outputs = pulumi_cli.engine_for(node, "dev").outputs("dev")
    except UserError as error:
        raise BatchError(f"stack 'dev' cannot be read: {error}") from None
    return outputs, str(node.programs / "kubectl"), (sys.executable, "-m", "local", "down"), "make up"


def _by_pulumi(name: str) -> tuple[Mapping[str, Any], str, tuple[str, ...], str]:
    pulumi, kubectl = shutil.which("pulumi"), shutil.which("kubectl")
    if pulumi is None:
        raise BatchError(
            f"stack {name!r} is read by the Pulumi CLI, and there is no `pulumi` on PATH.\n"
            f"Fix: install it ({HOW_TO_GET_PULUMI}). Stack 'dev' of `make up` needs none."
        )
    if kubectl is None:
        raise BatchError(
            f"the cluster is reached by kubectl, and there is no `kubectl` on PATH.\n"
            f"Fix: install it ({HOW_TO_GET_KUBECTL})"
        )
    up = f"pulumi up --stack {name}"
    asked = [pulumi, "stack", "output", "--json", "--show-secrets", "--stack", name, "--non-interactive"]
    done = subprocess.run(asked, cwd=REPO, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BatchError(
            f"stack {name!r} cannot be read: {done.stderr.strip()[-800:]}\n"
            f"Fix: pulumi login, then one of `pulumi stack ls`; a new one: pulumi stack init {name} && {up}"
        )
    return json.loads(done.stdout), kubectl, (pulumi, "destroy", "--yes", "--stack", name), up


def destroy(stack: Stack) -> None:
    """Destroys the stack, its engine's words on standard error. Raises BatchError, or KeyboardInterrupt at its end."""
    with subprocess.Popen(stack.destroy, cwd=REPO, stdin=subprocess.DEVNULL, stdout=sys.stderr) as process:
        status = wait_to_its_end(process)
    if status != 0:
        raise BatchError(
            f"stack {stack.name!r} was not destroyed; the messages are above.\nFix: {' '.join(stack.destroy)}"
        )
