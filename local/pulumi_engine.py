"""Runs stack dev by the Pulumi CLI, through Pulumi's Automation API (https://www.pulumi.com/docs/iac/automation-api).

The stack's backend is in the cluster's folder, whatever backend the user is logged in to. So the stack ends with the
cluster, `up` needs no account, and a stack `dev` of another machine is not touched.
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotDone
from typing import Any

import yaml
from pulumi import automation

from common import processes
from common.errors import UserError
from common.kubectl import Kubectl
from common.paths import REPO, cache_dir, state_dir
from common.patience import patience
from common.private_files import write_private
from components.release.pod_watch import POLL_SECONDS, PodWatch
from image.broker.diagnosis import PodProblem
from local import pulumi_recovery
from local.cluster import Node
from local.stack_config import PASSWORD_VARIABLE, PROJECT, read_settings

ROLLBACK_SECONDS = 60.0
"""Seconds in which the CLI may roll back after Ctrl-C, before a second Ctrl-C ends it at once."""


class PulumiEngine:
    """The Pulumi CLI. The program runs in the project; the stack is created in the cluster's folder.

    That folder has a bare Pulumi.yaml and a copy of the stack's config file: the CLI writes a salt into that file when
    it creates the stack, and the project's own file is under version control.
    """

    def __init__(self, command: automation.PulumiCommand, node: Node, stack: str) -> None:
        self._command = command
        self._node = node
        self._folder = state_dir(node.cluster)
        self._config_file = self._folder / f"Pulumi.{stack}.yaml"
        backend = self._folder / "pulumi"
        backend.mkdir(exist_ok=True)
        passphrase = self._folder / "pulumi-passphrase"
        if not passphrase.exists():
            write_private(passphrase, secrets.token_urlsafe(32))
        self._environment = {
            "PATH": _path_with_uv(),
            "PULUMI_BACKEND_URL": f"file://{backend}",
            "PULUMI_CONFIG_PASSPHRASE_FILE": str(passphrase),
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            # Else the CLI downloads a plugin for each SDK in uv.lock, hundreds of megabytes for the clouds.
            "PULUMI_OPTION_SKIP_PLUGIN_PRE_INSTALL": "true",
        }
        os.environ.pop("PULUMI_CONFIG_PASSPHRASE", None)  # the variable would override the file

    def up(self, stack: str, config: Mapping[str, str]) -> Mapping[str, Any]:
        """`pulumi up` with `config` over the stack's file; returns the outputs, secrets included. Raises UserError."""
        settings = read_settings(stack, config)
        self._write_config(stack, config)
        pulumi_recovery.unlock(self._folder / "pulumi")
        kubectl = Kubectl(str(self._node.programs / "kubectl"), self._node.kubeconfig, settings.namespace)
        workspace = automation.LocalWorkspace(
            work_dir=str(self._folder), env_vars=self._environment, pulumi_command=self._command
        )
        try:
            created = automation.Stack.create_or_select(stack, workspace)
            self._set_password(stack)
            workspace.work_dir = str(REPO)
            pulumi_recovery.recover(created, str(self._config_file), str(self._node.programs / "helm"), kubectl)
            result = _watched_up(created, str(self._config_file), PodWatch(kubectl, settings.name))
        except automation.CommandError as error:
            raise UserError(
                f"pulumi failed: {str(error).strip()[-800:]}\n"
                "    fix: make up, which continues from there; or make down && make up, which starts anew"
            ) from None
        return {name: output.value for name, output in result.outputs.items()}

    def _write_config(self, stack: str, config: Mapping[str, str]) -> None:
        (self._folder / "Pulumi.yaml").write_text(yaml.safe_dump({"name": PROJECT, "runtime": "python"}))
        last = yaml.safe_load(self._config_file.read_text()) if self._config_file.exists() else {}
        content = yaml.safe_load((REPO / f"Pulumi.{stack}.yaml").read_text())
        content["config"] |= {f"{PROJECT}:{key}": value for key, value in config.items()}
        # The salt stays: the secrets in the stack's state are encrypted with it.
        kept = {key: value for key, value in last.items() if key != "config"}
        self._config_file.write_text(yaml.safe_dump(kept | content))

    def _set_password(self, stack: str) -> None:
        """Encrypts the password of the environment into the config file.

        Passes it by standard input. The Automation API would put the password into an argument, which others can read.
        """
        password = os.environ.get(PASSWORD_VARIABLE)
        if not password:
            return
        command = [self._command.command, "config", "set", "--stack", stack, "--secret", f"{PROJECT}:password"]
        done = subprocess.run(
            [*command, "--non-interactive"],
            cwd=self._folder, env={**os.environ, **self._environment}, input=password, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise UserError(f"pulumi config set failed: {done.stderr.strip()[-800:]}")


def _watched_up(stack: automation.Stack, config_file: str, watch: PodWatch) -> automation.UpResult:
    """Runs `pulumi up`, and ends it early where a pod cannot start. Helm would wait until its time-out.

    The CLI runs in a thread: it receives Ctrl-C too, and must be able to finish its clean-up.
    """
    problem: PodProblem | None = None
    interrupted, interrupted_at = False, -math.inf  # a monotonic clock may begin at 0 with the machine
    with ThreadPoolExecutor(max_workers=1) as pool:
        # A summary with secrets would make the CLI read the project's own config file.
        update = pool.submit(
            stack.up, on_output=_print, on_error=_print_error, config_file=config_file, show_secrets=False
        )
        while not update.done():
            try:
                _wait(update)
                if interrupted or update.done():
                    continue
                if problem is None and (problem := watch.check()):
                    print(f"\n{watch.report(problem)}\nStopping Pulumi, which rolls back.", file=sys.stderr, flush=True)
                late = time.monotonic() - interrupted_at > patience(ROLLBACK_SECONDS)
                if problem and late and _interrupt_cli():
                    interrupted_at = time.monotonic()
            except KeyboardInterrupt:
                interrupted = True
    if interrupted:
        raise KeyboardInterrupt
    if problem and update.exception():
        raise UserError(f"pulumi up was stopped, since a pod will not come up:\n    {problem}")
    return update.result()


def _wait(update: Future[automation.UpResult]) -> None:
    try:
        update.exception(POLL_SECONDS)
    except NotDone:
        return


def _interrupt_cli() -> bool:
    """Sends Ctrl-C's signal to the CLI, which the Automation API starts as a child of this process.

    Returns False where there is none: it has not started yet, or has just ended.
    """
    found = [entry for entry in processes.running() if entry.parent == os.getpid() and entry.name == "pulumi"]
    for process in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGINT)
    return bool(found)


def _print(line: str) -> None:
    print(line, flush=True)


def _print_error(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _path_with_uv() -> str:
    """Return PATH, extended by the uv that `make` installed if there is no other. The CLI runs the program by uv."""
    if shutil.which("uv"):
        return os.environ["PATH"]
    installed = sorted(str(program.parent) for program in cache_dir().glob("uv-*/bin/uv"))
    return os.pathsep.join([os.environ["PATH"], *installed[-1:]])
