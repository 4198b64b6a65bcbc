"""Creates, updates and removes the program's resources, by kubectl and Helm; one private file keeps the state."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.kubectl import Kubectl, find_program, last_line
from common.paths import local_cluster, state_dir
from common.patience import patience
from common.private_files import private_file, write_private
from common.progress import step
from local.go_binaries import exclusive
from local.helm import HelmRelease
from local.stack_config import read_config
from local.standin.collect import RELEASE, Program

NOTICE = "This is the project's stand-in for the Pulumi engine, not Pulumi: it supports only stack dev on this machine."


@dataclass
class State:
    """The private file. drawn: generated secrets. applied: hash of each resource's inputs by its key, oldest first."""

    drawn: dict[str, str] = field(default_factory=dict)
    applied: dict[str, str] = field(default_factory=dict)
    kubeconfig: str = ""
    outputs: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls) -> State:
        """Return the state, empty if there is none. Raises UserError if the file cannot be parsed."""
        try:
            return cls(**json.loads(state_path().read_text()))
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{state_path()} cannot be read: {error}\n    fix: make down && make up") from None

    def save(self) -> None:
        """Writes the file."""
        write_private(state_path(), json.dumps(asdict(self), indent=1))


def state_path() -> Path:
    """Return the path of the private file, in the folder of the cluster on this machine."""
    return state_dir(local_cluster()) / "standin.json"


def up(stack: str, overrides: Mapping[str, str]) -> dict[str, Any]:
    """Creates and updates the program's resources; returns the stack's outputs, secrets included.

    Raises UserError, or the program's own pulumi.RunError before anything is changed. After an error or Ctrl-C the next
    `up` continues: each resource is saved at once.
    """
    config = read_config(stack, overrides)
    started = time.monotonic()
    print(f"Updating stack {stack}\n  {NOTICE}", flush=True)
    with _locked() as state:
        program = Program(state.drawn)
        program.run(stack, config)
        state.kubeconfig = program.kubeconfig
        state.save()  # before any change: the next run must know the generated secrets
        with _cluster(state) as cluster:
            counts = _apply(program.resources, state, cluster)
        state.outputs = program.outputs
        state.save()
    told = ", ".join(f"{number} {change}" for change, number in counts.items())
    print(f"Resources: {told} ({time.monotonic() - started:.1f} s)", flush=True)
    return state.outputs


def _apply(resources: Mapping[str, Any], state: State, cluster: _Cluster) -> dict[str, int]:
    counts = {"created": 0, "updated": 0, "deleted": 0, "unchanged": 0}
    for key, inputs in resources.items():
        fingerprint = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
        if state.applied.get(key) == fingerprint and cluster.has(key):
            counts["unchanged"] += 1
            continue
        counts["updated" if key in state.applied else "created"] += 1
        state.applied[key] = ""  # saved first, so that `down` finds the resources of an interrupted run
        state.save()
        cluster.apply(key, inputs)
        state.applied[key] = fingerprint
        state.save()
    for key in [key for key in reversed(state.applied) if key not in resources]:
        cluster.delete(key)
        del state.applied[key]
        state.save()
        counts["deleted"] += 1
    return counts


def down() -> None:
    """Removes everything that the stack created, newest first, and its private file."""
    with _locked() as state:
        if state.applied:
            with _cluster(state) as cluster:
                _apply({}, state, cluster)
        state_path().unlink(missing_ok=True)


def outputs() -> dict[str, Any]:
    """Return the outputs of the last complete run, secrets included. Raises UserError if there was none."""
    found = State.load().outputs
    if not found:
        raise UserError("stack dev is not up\n    fix: make up")
    return found


@dataclass(frozen=True)
class _Cluster:
    """Client of kubectl and Helm with the kubeconfig of the program's provider."""

    kubectl: str
    helm: str
    kubeconfig: Path

    def has(self, key: str) -> bool:
        """Return True if the object exists and is not being deleted; for a release, if its last update succeeded."""
        kind, _, name = key.split("/")
        if kind == RELEASE:
            return self._release(key).status() == "deployed"
        fields = "jsonpath={.metadata.name}{.metadata.deletionTimestamp}"
        return self._kubectl(key, "get", kind, name, "--ignore-not-found", f"--output={fields}").strip() == name

    def apply(self, key: str, inputs: Mapping[str, Any]) -> None:
        """Creates or updates a resource; waits for the pods of a release."""
        kind, _, name = key.split("/")
        if kind == RELEASE:
            with step(f"Release {name}") as progress:
                self._release(key).upgrade(inputs, progress)
        else:
            command = ["apply", "--server-side", "--force-conflicts", "--field-manager=future-kubernetes"]
            self._kubectl(key, *command, "--filename=-", stdin=json.dumps(inputs))

    def delete(self, key: str) -> None:
        """Deletes a resource and waits until it is gone. Succeeds where it is gone already."""
        kind, _, name = key.split("/")
        if kind == RELEASE:
            self._release(key).uninstall()
        else:
            self._kubectl(key, "delete", kind, name, "--ignore-not-found", f"--timeout={patience(180):.0f}s")

    def _release(self, key: str) -> HelmRelease:
        _, namespace, name = key.split("/")
        return HelmRelease(self.helm, Kubectl(self.kubectl, self.kubeconfig, namespace), name)

    def _kubectl(self, key: str, *arguments: str, stdin: str = "") -> str:
        kubectl = Kubectl(self.kubectl, self.kubeconfig, key.split("/")[1])
        done = kubectl.run(*arguments, stdin=stdin, timeout=200)
        if done.returncode != 0:
            raise UserError(f"kubectl {arguments[0]} failed for {key}: {last_line(done.stderr)}\n    fix: make up")
        return done.stdout


@contextlib.contextmanager
def _cluster(state: State) -> Iterator[_Cluster]:
    kubectl, helm = find_program("kubectl"), find_program("helm")
    if not kubectl or not helm:
        raise UserError("kubectl or helm is neither in $FUTURE_KUBERNETES_BIN nor on PATH\n    fix: make up")
    with private_file(state.kubeconfig) as kubeconfig:
        yield _Cluster(kubectl, helm, kubeconfig)


@contextlib.contextmanager
def _locked() -> Iterator[State]:
    with exclusive(state_path().with_suffix(".lock"), "another update of stack dev"):
        yield State.load()
