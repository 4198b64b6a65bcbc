"""Which engine brings stack `dev` up: the Pulumi CLI from PATH or from Pulumi's installer, else the stand-in.

Both give the same stack and outputs. The CLI keeps the state in the cluster's folder, whatever it is logged in to: the
stack ends with the cluster, `make up` asks for no account, and a stack `dev` of another machine is left alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import yaml
from pulumi.automation import PulumiCommand

from common.errors import UserError
from common.paths import REPO, cache_dir, state_dir
from common.processes import wait_to_its_end
from common.progress import step
from local import engine as stand_in
from local.cluster import Node
from local.engine_resources import HelmRelease, Tools, indented
from local.rollout import POLL_SECONDS, Kubectl, Rollout, Trouble

RELEASE_TYPE = "kubernetes:helm.sh/v3:Release"

TAKE_BACK_SECONDS = 60.0
"""How long the CLI may take back what it began before it is told again, which ends it at once."""

ORPHAN_SECONDS = 10.0


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
    """The Pulumi CLI, with a backend in the cluster's folder.

    The stack's config file is a copy in that folder, with a bare Pulumi.yaml beside it: the CLI writes a salt into the
    file when it makes a stack, and the project's own is under version control.
    """

    def __init__(self, pulumi: str, node: Node) -> None:
        self._pulumi = pulumi
        self._kubectl = Kubectl(str(node.programs / "kubectl"), node.kubeconfig)
        self._folder = state_dir(node.cluster)
        self._environment = {
            **os.environ,
            "PATH": _path_with_uv(),
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            # Else it fetches a plugin for all that uv.lock names, the clouds' hundreds of megabytes among them.
            "PULUMI_OPTION_SKIP_PLUGIN_PRE_INSTALL": "true",
            **self._backend(),
        }
        self._environment.pop("PULUMI_CONFIG_PASSPHRASE", None)  # it would win over the file

    def up(self, stack: str, config: Mapping[str, str]) -> Mapping[str, Any]:
        """`pulumi up` with `config` over the stack's file, in a copy: the file in the project stays as it is."""
        settings = stand_in.read_settings(stack, config)
        file = self._config_file(stack, config)
        self._unlock()
        self._run("stack", "select", stack, "--create", cwd=self._folder)
        self._mend(stack, file)
        password = os.environ.get(stand_in.PASSWORD_VARIABLE)
        if password:
            key = f"{stand_in.PROJECT}:password"
            self._run("config", "set", "--stack", stack, "--config-file", str(file), "--secret", key, stdin=password)
        watch = Watch(Rollout(self._kubectl, settings.namespace, settings.name))
        up = [self._pulumi, "up", "--stack", stack, "--config-file", str(file), "--yes", "--skip-preview"]
        with subprocess.Popen(up, cwd=REPO, env=self._environment) as process:
            status = wait_to_its_end(process, partial(watch.look, process), POLL_SECONDS)
        if status != 0 and watch.trouble:
            raise UserError(f"pulumi up was stopped, since a pod will not come up:\n    {watch.trouble}")
        if status != 0:
            raise UserError(
                "pulumi up failed; its messages are above. Run it again and it goes on from there; "
                "`make down && make up` starts anew."
            )
        return self.outputs(stack)

    def outputs(self, stack: str) -> Mapping[str, Any]:
        """`pulumi stack output`."""
        text = self._run("stack", "output", "--stack", stack, "--json", "--show-secrets").stdout
        found: dict[str, Any] = json.loads(text)
        return found

    def forget(self, stack: str) -> None:
        """Nothing: the state goes with the cluster's folder, and all that it stands for with the cluster."""

    def _config_file(self, stack: str, config: Mapping[str, str]) -> Path:
        (self._folder / "Pulumi.yaml").write_text(yaml.safe_dump({"name": stand_in.PROJECT, "runtime": "python"}))
        file = self._folder / f"Pulumi.{stack}.yaml"
        last = yaml.safe_load(file.read_text()) if file.exists() else {}
        content = yaml.safe_load((REPO / f"Pulumi.{stack}.yaml").read_text())
        content["config"] |= {f"{stand_in.PROJECT}:{key}": value for key, value in config.items()}
        # What the stack's secrets are encrypted with stays, such as the salt.
        file.write_text(yaml.safe_dump({key: value for key, value in last.items() if key != "config"} | content))
        return file

    def _backend(self) -> dict[str, str]:
        passphrase = self._folder / "pulumi-passphrase"
        if not passphrase.exists():
            with os.fdopen(os.open(passphrase, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
                out.write(secrets.token_urlsafe(32))
        backend = self._folder / "pulumi"
        backend.mkdir(exist_ok=True)
        return {"PULUMI_BACKEND_URL": f"file://{backend}", "PULUMI_CONFIG_PASSPHRASE_FILE": str(passphrase)}

    def _unlock(self) -> None:
        """Takes away what a killed CLI leaves in the cluster's folder. Raises UserError where it still works."""
        for lock in (self._folder / "pulumi").glob(".pulumi/locks/**/*.json"):
            owner = json.loads(lock.read_text())["pid"]
            if self._is_the_cli(owner):
                raise UserError(
                    f"Pulumi is at work on this stack already. Fix: wait for its end, or bring it about by "
                    f"`kill -INT {owner}`; then run it again"
                )
            lock.unlink(missing_ok=True)

    def _is_the_cli(self, pid: int) -> bool:
        return _name(pid) == Path(self._pulumi).name

    def _mend(self, stack: str, file: Path) -> None:
        """Takes back what a killed CLI had begun.

        Pulumi remembers that it began it and asks a person what became of it; Helm refuses a release that is half made.
        """
        exported = json.loads(self._run("stack", "export", "--stack", stack).stdout)
        pending = exported["deployment"].get("pending_operations") or []
        if not pending:
            return
        with step("Mending what an interrupted run left") as progress:
            self._end_orphans()
            helm = HelmRelease(self._kubectl, Tools.find(self._folder))
            for operation in pending:
                if operation["resource"]["type"] != RELEASE_TYPE:
                    continue
                release = operation["resource"]["inputs"]
                if operation["type"] == "creating":
                    # Even one that Helm completed: before there are outputs, nobody has its password and files in it.
                    # `refresh --import-pending-creates` would keep it, but had no effect in pulumi 3.259.
                    helm.uninstall(release)
                else:
                    helm.recover(release, progress)
            self._run("refresh", "--stack", stack, "--config-file", str(file), "--yes", "--clear-pending-creates")

    def _end_orphans(self) -> None:
        """Ends the plugins that a killed CLI left at work, and what they run.

        They would go on for up to five minutes (sdk/go/common/util/rpcutil/health.go in pulumi/pulumi), and take away
        the next run's release when theirs fails.
        """
        deadline = time.monotonic() + ORPHAN_SECONDS
        while (orphans := self._orphans()) and time.monotonic() < deadline:
            for pid in orphans:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)

    def _orphans(self) -> list[int]:
        # A shell of the user's may have the variable too, so that the name counts as well.
        mark = f"PULUMI_BACKEND_URL={self._environment['PULUMI_BACKEND_URL']}".encode()
        parents: dict[int, int] = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has just ended
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    parents[int(folder.name)] = _parent(int(folder.name))
        plugins = {
            pid for pid, parent in parents.items() if _name(pid).startswith("pulumi-") and not self._is_the_cli(parent)
        }
        # A plugin before what it runs: it would begin the next when that ends.
        return [*plugins, *(pid for pid, parent in parents.items() if parent in plugins)]

    def _run(self, *arguments: str, cwd: Path = REPO, stdin: str = "") -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [self._pulumi, *arguments, "--non-interactive"],
            cwd=cwd, env=self._environment, input=stdin, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise UserError(f"pulumi {arguments[0]} failed: {done.stderr.strip()[-800:]}")
        return done


class Watch:
    """Looks at a release's pods while the CLI waits for them, and stops it where they will not come up.

    By itself it waits for Helm's whole timeout, and says then that the time is over.
    """

    def __init__(self, rollout: Rollout) -> None:
        self.trouble: Trouble | None = None
        self._rollout = rollout
        self._told = 0.0

    def look(self, process: subprocess.Popen[bytes]) -> None:
        """Looks once; at a trouble that lasts it says so, and presses Ctrl-C: once, and again after a while."""
        if self.trouble is None:
            self.trouble = self._rollout.look()
            if self.trouble is None:
                return
            log = self._rollout.last_words(self.trouble)
            words = f"\n    its last words:\n{indented(log)}" if log else ""
            print(
                f"\n{self.trouble}{words}\nStopping Pulumi, which takes back what it began.",
                file=sys.stderr,
                flush=True,
            )
        elif time.monotonic() - self._told < TAKE_BACK_SECONDS:
            return
        self._told = time.monotonic()
        process.send_signal(signal.SIGINT)


def _name(pid: int) -> str:
    """The name of a process, in its first 15 bytes (proc(5)); empty where there is none of that number."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _path_with_uv() -> str:
    """PATH, with the uv that `local/setup.sh` installed where the machine has none: the CLI runs programs by it."""
    if shutil.which("uv"):
        return os.environ["PATH"]
    installed = sorted(str(program.parent) for program in cache_dir().glob("uv-*/bin/uv"))
    return os.pathsep.join([os.environ["PATH"], *installed[-1:]])


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
