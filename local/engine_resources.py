"""How the stand-in engine makes, compares and removes each kind of resource that stack `dev` has.

Every kind really is made: objects by `kubectl apply`, releases by `helm`, and dynamic resources by their own provider.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.progress import Step, step
from local.engine_state import Resource
from local.rollout import POLL_SECONDS, Kubectl, Rollout

UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
"""How the SDK writes a value that is known only once a resource is made (pulumi.runtime.rpc.UNKNOWN)."""

FIELD_MANAGER = "future-kubernetes"
STOP_SECONDS = 20.0


class Interrupted(UserError):  # noqa: N818 - not an error but the user's wish
    """The user asked to stop."""

    def __init__(self) -> None:
        super().__init__("interrupted; what was made is remembered, and the same command goes on from here")


@dataclass
class Tools:
    """Programs and the kubeconfig of the run's provider; `stop` is set when the user asks to stop."""

    kubectl: str
    helm: str
    scratch: Path
    """Folder for private files; emptied at each start, since a killed run cannot remove its own."""
    stop: threading.Event = field(default_factory=threading.Event)
    timeout_seconds: float | None = None
    """Overrides the time that a release may take."""

    @classmethod
    def find(cls, scratch: Path) -> Tools:
        """kubectl and helm in $FUTURE_KUBERNETES_BIN, else on PATH. Raises UserError where one is missing."""
        found = {}
        for name in ("kubectl", "helm"):
            folder = os.environ.get("FUTURE_KUBERNETES_BIN")
            path = (shutil.which(name, path=folder) if folder else None) or shutil.which(name)
            if path is None:
                raise UserError(
                    f"{name} is not installed: it is neither in $FUTURE_KUBERNETES_BIN nor on PATH. Fix: make up"
                )
            found[name] = path
        return cls(found["kubectl"], found["helm"], scratch)

    @contextlib.contextmanager
    def scratch_folder(self) -> Iterator[None]:
        """The scratch folder for as long as the block runs. Only under the stack's lock."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir(mode=0o700, parents=True)
        try:
            yield
        finally:
            shutil.rmtree(self.scratch, ignore_errors=True)


@contextlib.contextmanager
def private_file(content: str, folder: Path) -> Iterator[Path]:
    """A file of mode 0600 for as long as the block runs: values and kubeconfigs belong in no argument."""
    handle, name = tempfile.mkstemp(dir=folder)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(content)
        yield Path(name)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


class Kind(ABC):
    """One kind of resource. `old` and `new` are inputs in plain text; ids and outputs are what the SDK gets to see."""

    def same_identity(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
        """Whether a change from `old` to `new` is made in place rather than by another object."""
        return True

    @abstractmethod
    def is_there(self, resource: Resource) -> bool:
        """Whether what was made is still as it was left."""

    @abstractmethod
    def make(self, name: str, new: dict[str, Any], old: Resource | None) -> tuple[str, dict[str, Any]]:
        """Creates it, or updates `old` in place; returns id and outputs. Raises UserError."""

    @abstractmethod
    def remove(self, resource: Resource) -> None:
        """Deletes it; what is gone already is no error. Raises UserError."""

    def expected(self, name: str, new: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Id and outputs as a preview knows them."""
        return UNKNOWN, new


class Provider(Kind):
    """A Kubernetes provider: nothing is made, other kinds use its kubeconfig."""

    def is_there(self, resource: Resource) -> bool:
        """Always."""
        return True

    def make(self, name: str, new: dict[str, Any], old: Resource | None) -> tuple[str, dict[str, Any]]:
        """Nothing."""
        return f"{name}-provider", new

    def remove(self, resource: Resource) -> None:
        """Nothing."""

    def expected(self, name: str, new: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """As when made, since it needs nothing."""
        return self.make(name, new, None)


class Dynamic(Kind):
    """A `pulumi.dynamic` resource, made by the provider that it carries with it."""

    def _provider(self, inputs: Mapping[str, Any]) -> Any:
        import dill  # type: ignore[import-untyped]

        # The text was written by this very program, or stands in a state file that only its owner can write.
        return dill.loads(base64.b64decode(inputs["__provider"]))  # noqa: S301

    def same_identity(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
        """As the provider says."""
        return not self._provider(new).diff("", dict(old), dict(new)).replaces

    def is_there(self, resource: Resource) -> bool:
        """It lives in the state alone."""
        return True

    def make(self, name: str, new: dict[str, Any], old: Resource | None) -> tuple[str, dict[str, Any]]:
        """By the provider's create or update."""
        provider = self._provider(new)
        if old is None:
            created = provider.create(dict(new))
            return created.id, created.outs or {}
        updated = provider.update(old.id, {**old.inputs, **old.outputs}, dict(new))
        return old.id, updated.outs or {}

    def remove(self, resource: Resource) -> None:
        """By the provider's delete."""
        self._provider(resource.inputs).delete(resource.id, {**resource.inputs, **resource.outputs})

    def expected(self, name: str, new: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Its outputs are known only once it is made."""
        return UNKNOWN, {**{key: value for key, value in new.items() if key != "__provider"}, "value": UNKNOWN}


class Object(Kind):
    """A Kubernetes object, by server-side apply."""

    def __init__(self, kubectl: Kubectl) -> None:
        self.kubectl = kubectl

    def same_identity(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
        """The same kind, namespace and name."""
        return reference(old) == reference(new)

    def is_there(self, resource: Resource) -> bool:
        """Whether the API server has the object, and it is not being deleted."""
        return self._exists(resource.inputs)

    def _exists(self, inputs: Mapping[str, Any]) -> bool:
        kind, namespace, name = reference(inputs)
        arguments = [
            "get",
            kind,
            name,
            "--ignore-not-found",
            "--output",
            "jsonpath={.metadata.name}{.metadata.deletionTimestamp}",
        ]
        answer = self.kubectl.run(*arguments, *scoped(namespace))
        if answer.returncode != 0:
            raise UserError(f"{kind} {name} cannot be looked up: {last_line(answer.stderr)}")
        return answer.stdout.strip() == name

    def make(self, name: str, new: dict[str, Any], old: Resource | None) -> tuple[str, dict[str, Any]]:
        """Applies the object as it stands in the inputs."""
        kind, namespace, object_name = reference(new)
        applied = self.kubectl.run(
            "apply", "--server-side", "--force-conflicts", f"--field-manager={FIELD_MANAGER}", "--filename", "-",
            stdin=json.dumps(new),
        )  # fmt: skip
        if applied.returncode != 0:
            raise UserError(f"{kind} {object_name} cannot be applied: {last_line(applied.stderr)}")
        return f"{namespace}/{object_name}" if namespace else object_name, new

    def remove(self, resource: Resource) -> None:
        """Deletes the object and waits until it is gone."""
        kind, namespace, name = reference(resource.inputs)
        deleted = self.kubectl.run(
            "delete", kind, name, "--ignore-not-found", "--wait=true", "--timeout=180s", *scoped(namespace), timeout=200
        )
        if deleted.returncode != 0:
            raise UserError(f"{kind} {name} cannot be deleted: {last_line(deleted.stderr)}")

    def expected(self, name: str, new: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Its name is known beforehand."""
        _, namespace, object_name = reference(new)
        return f"{namespace}/{object_name}" if namespace else object_name, new


def reference(inputs: Mapping[str, Any]) -> tuple[str, str, str]:
    """Kind (as kubectl takes it), namespace and name of an object."""
    group, _, version = str(inputs["apiVersion"]).rpartition("/")
    kind = f"{inputs['kind']}.{version}.{group}" if group else str(inputs["kind"])
    return kind, inputs["metadata"].get("namespace", ""), inputs["metadata"]["name"]


def scoped(namespace: str) -> list[str]:
    """The arguments that name a namespace."""
    return ["--namespace", namespace] if namespace else []


def last_line(text: str) -> str:
    """The last line that says something, which is where programs put the reason."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason was given"


class HelmRelease(Kind):
    """A Helm release. While it waits the pods are watched, and what will not come up ends the wait."""

    def __init__(self, kubectl: Kubectl, tools: Tools) -> None:
        self.kubectl = kubectl
        self.tools = tools

    def same_identity(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
        """The same name in the same namespace."""
        return (old["name"], old["namespace"]) == (new["name"], new["namespace"])

    def is_there(self, resource: Resource) -> bool:
        """Whether the release's last revision is the one that was deployed."""
        return self._status(resource.inputs) == "deployed"

    def make(self, name: str, new: dict[str, Any], old: Resource | None) -> tuple[str, dict[str, Any]]:
        """`helm upgrade --install --wait`; a failed install is taken away, a failed upgrade taken back."""
        with step(f"Release {new['name']}") as progress:
            self.recover(new, progress)
            with private_file(json.dumps(new.get("values", {})), self.tools.scratch) as values:
                seconds = self.tools.timeout_seconds or new.get("timeout", 600)
                command = self._helm(new, "upgrade", "--install", new["name"], new["chart"], "--values", str(values),
                    "--wait", "--timeout", f"{seconds}s", "--history-max", str(new.get("maxHistory", 5)),
                    "--description", new.get("description", ""))  # fmt: skip
                failure = self._watched(command, new, progress)
            if failure:
                progress.note("taking back what was begun")
                self.recover(new, progress)
                raise failure
        return f"{new['namespace']}/{new['name']}", new

    def remove(self, resource: Resource) -> None:
        """`helm uninstall --wait`."""
        self.uninstall(resource.inputs)

    def expected(self, name: str, new: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Its name is known beforehand."""
        return f"{new['namespace']}/{new['name']}", new

    def _helm(self, release: Mapping[str, Any], *arguments: str) -> list[str]:
        flags = ["--kubeconfig", str(self.kubectl.kubeconfig), "--namespace", release["namespace"]]
        return [self.tools.helm, *arguments, *flags]

    def _run(
        self, release: Mapping[str, Any], *arguments: str, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._helm(release, *arguments), capture_output=True, text=True, timeout=timeout, check=False
        )

    def _status(self, release: Mapping[str, Any]) -> str | None:
        answer = self._run(release, "status", release["name"], "--output", "json")
        if answer.returncode == 0:
            return str(json.loads(answer.stdout)["info"]["status"])
        if "not found" in answer.stderr:
            return None
        raise UserError(f"the state of release {release['name']} cannot be read: {last_line(answer.stderr)}")

    def recover(self, release: Mapping[str, Any], progress: Step) -> None:
        """Takes a release that a killed or failed run left behind to its last good revision, or away.

        Helm refuses to touch a release that is `pending-...`, and one that never was deployed.
        """
        status = self._status(release)
        if status in (None, "deployed"):
            return
        answer = self._run(release, "history", release["name"], "--output", "json")
        revisions = json.loads(answer.stdout) if answer.returncode == 0 else []
        good = [entry["revision"] for entry in revisions if entry["status"] in ("deployed", "superseded")]
        if good and status != "uninstalling":
            progress.note(f"the last run left it {status}: back to revision {max(good)}")
            # Not --wait: what is rolled back to may be held up by the very trouble that the next step cures.
            done = self._run(release, "rollback", release["name"], str(max(good)), "--cleanup-on-fail")
            if done.returncode != 0:
                raise UserError(f"release {release['name']} cannot be rolled back: {last_line(done.stderr)}")
        else:
            progress.note(f"the last run left it {status}: removing it")
            self.uninstall(release)

    def uninstall(self, release: Mapping[str, Any]) -> None:
        """Removes the release with all that it made, its volumes included; none is no error. Raises UserError."""
        done = self._run(release, "uninstall", release["name"], "--wait", "--timeout", "180s", "--ignore-not-found")
        if done.returncode != 0:
            raise UserError(f"release {release['name']} cannot be removed: {last_line(done.stderr)}")

    def _watched(self, command: list[str], release: Mapping[str, Any], progress: Step) -> UserError | None:
        """Runs Helm and watches the pods; returns what went wrong, in the pods' own words where there are any."""
        rollout = Rollout(self.kubectl, release["namespace"], release["name"])
        trouble = None
        with tempfile.TemporaryFile("w+") as said:
            # A session of its own: Ctrl-C in the terminal must reach Helm through us, who then clean up after it.
            process = subprocess.Popen(command, stdout=said, stderr=said, text=True, start_new_session=True)
            try:
                looked = 0.0
                while process.poll() is None and not trouble and not self.tools.stop.is_set():
                    if time.monotonic() - looked >= POLL_SECONDS:
                        trouble = rollout.look()
                        looked = time.monotonic()
                        progress.note(rollout.progress)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(0.1)
            finally:
                end(process)
            said.seek(0)
            text = said.read()
        if self.tools.stop.is_set():
            return Interrupted()
        if trouble:
            log = rollout.last_words(trouble)
            return UserError(f"{trouble}" + (f"\n    its last words:\n{indented(log)}" if log else ""))
        if process.returncode != 0:
            hint = f" ({rollout.progress})" if "timed out" in text or "deadline" in text else ""
            return UserError(f"helm: {last_line(text)}{hint}")
        return None


def end(process: subprocess.Popen[str]) -> None:
    """Asks a process to stop, and makes it stop where it does not."""
    for demand in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        process.send_signal(demand)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)


def indented(text: str) -> str:
    """Text as a block below a message."""
    return "\n".join(f"      {line}" for line in text.splitlines())


def kind_of(type_: str, kubeconfig: Path | None, tools: Tools) -> Kind:
    """The kind behind a resource type. Raises UserError for what stack `dev` does not have."""
    if type_ == "pulumi:providers:kubernetes":
        return Provider()
    if type_.startswith("pulumi-python:dynamic"):
        return Dynamic()
    if type_.startswith("kubernetes:"):
        if kubeconfig is None:
            raise UserError(f"{type_} has no Kubernetes provider of the program's own")
        kubectl = Kubectl(tools.kubectl, kubeconfig)
        return HelmRelease(kubectl, tools) if type_ == "kubernetes:helm.sh/v3:Release" else Object(kubectl)
    raise UserError(f"the stand-in engine cannot make {type_}: it serves stack dev alone. Fix: install the Pulumi CLI")
