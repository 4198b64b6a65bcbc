"""The stand-in for the Pulumi engine, where the Pulumi CLI cannot be had: runs the unmodified program for stack `dev`.

It hooks into the SDK where tests do (`pulumi.runtime.set_mocks`), and makes what the program registers. It is not the
Pulumi engine and says so: it serves a stack whose `cloud` is `local`, and no other.

    python -m local.engine up|preview|down|output [--stack dev] [--config key=value]...
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import re
import runpy
import shutil
import signal
import stat
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import pulumi
import yaml
from pulumi.runtime import mocks, rpc, set_all_config
from pulumi.runtime.proto import resource_pb2
from pulumi.runtime.settings import get_root_resource, set_root_resource
from pulumi.runtime.stack import run_pulumi_func
from pulumi.runtime.sync_await import _ensure_event_loop, _sync_await

from common.errors import UserError
from common.paths import REPO, state_dir
from components.settings.model import Settings, decoded, parse
from local.engine_resources import UNKNOWN, Interrupted, Kind, Tools, kind_of, private_file
from local.engine_state import Resource, State, locked
from local.node.supervisor import REGISTRY

PROJECT = "future-kubernetes"
NOTICE = "This is the project's stand-in for the Pulumi engine, not Pulumi: it serves stacks on this machine only."
PASSWORD_VARIABLE = "FUTURE_KUBERNETES_PASSWORD"  # noqa: S105 - a name
SIGNS = {"created": "+", "updated": "~", "deleted": "-", "replaced": "+-", "same": " "}
VERBS = {"created": "create", "updated": "update", "deleted": "delete", "replaced": "replace", "same": "same"}


def state_path(stack: str) -> Path:
    """Where the state of a stack is kept."""
    return state_dir(stack) / "engine-state.json"


def read_config(stack: str, overrides: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """The stack's config as the CLI would hand it over (full keys, text), and the keys of secrets.

    Defaults of Pulumi.yaml, then Pulumi.<stack>.yaml, then `overrides`. Raises UserError for what cannot be read, and
    for a secret that others could read.
    """
    project = yaml.safe_load((REPO / "Pulumi.yaml").read_text())
    merged: dict[str, Any] = {key: entry.get("default") for key, entry in (project.get("config") or {}).items()}
    path = REPO / f"Pulumi.{stack}.yaml"
    if not path.exists():
        raise UserError(f"there is no stack {stack!r}: {path.name} does not exist")
    given = (yaml.safe_load(path.read_text()) or {}).get("config") or {}
    merged.update({key.removeprefix(f"{PROJECT}:"): value for key, value in given.items()})
    merged.update({key.removeprefix(f"{PROJECT}:"): value for key, value in overrides.items()})
    if "password" in overrides:
        raise UserError(f"a password as an argument can be read by everybody; put it into ${PASSWORD_VARIABLE}")
    if isinstance(merged.get("password"), dict):
        raise UserError(f"password is encrypted by Pulumi; without its CLI, put it into ${PASSWORD_VARIABLE}")
    if merged.get("password") and stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise UserError(f"{path.name} holds a password and others can read it. Fix: chmod 600 {path.name}")
    if os.environ.get(PASSWORD_VARIABLE):
        merged["password"] = os.environ[PASSWORD_VARIABLE]
    config = {f"{PROJECT}:{key}": as_text(value) for key, value in merged.items() if value not in (None, "")}
    return config, [f"{PROJECT}:password"]


def read_settings(stack: str, overrides: Mapping[str, str]) -> Settings:
    """The stack's settings as the program will have them. Raises SettingsError, with every error, or UserError."""
    # What the image will be called is known once it is built; all else can be read before.
    config, secrets = read_config(stack, {"image": f"{REGISTRY}/future-kubernetes", **overrides})
    values = {key.removeprefix(f"{PROJECT}:"): value for key, value in config.items()}
    hidden = frozenset(key.removeprefix(f"{PROJECT}:") for key in secrets)
    return parse({key: decoded(key, value) for key, value in values.items()}, stack=stack, secrets=hidden)


def as_text(value: Any) -> str:
    """A config value as Pulumi hands it over: lists and maps as JSON."""
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else json.dumps(value)


def plain(value: Any) -> Any:
    """A deserialized property without secret wrappers, and whole numbers as such (protobuf knows doubles only)."""
    if rpc.is_rpc_secret(value):
        return plain(rpc.unwrap_rpc_secret(value))
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def masked(value: Any) -> Any:
    """A deserialized property as it may be shown."""
    if rpc.is_rpc_secret(value):
        return "[secret]"
    if isinstance(value, dict):
        return {key: masked(entry) for key, entry in value.items() if key != "__provider"}
    if isinstance(value, list):
        return [masked(entry) for entry in value]
    return "[known once made]" if value == UNKNOWN else plain(value)


class Engine(mocks.MockMonitor):
    """Makes each resource when the program registers it, one at a time, and remembers it at once."""

    def __init__(self, stack: str, state: State, tools: Tools, preview: bool) -> None:
        super().__init__(_NoMocks())
        self.stack = stack
        self.state = state
        self.tools = tools
        self.preview = preview
        self.registered: set[str] = set()
        self.counts = dict.fromkeys(SIGNS, 0)
        self.failure: UserError | None = None
        self._one_at_a_time = threading.Lock()
        self._kubeconfigs: dict[str, Path] = {}
        self._files = contextlib.ExitStack()

    # Names and forms of the next two are the SDK's.
    def RegisterResource(self, request: Any) -> Any:  # noqa: N802
        """A resource of the program."""
        urn = self.make_urn(request.parent, request.type, request.name)
        if not request.custom:
            return resource_pb2.RegisterResourceResponse(urn=urn)
        _ensure_event_loop()  # type: ignore[no-untyped-call]
        shown = rpc.deserialize_properties(request.object, keep_unknowns=True)
        with self._one_at_a_time:
            try:
                id_, outputs = self._register(urn, request, shown)
            except UserError as error:
                # What depends on this one fails too, with messages that help nobody.
                self.failure = self.failure or error
                raise
        self.resources[urn] = mocks.MockMonitor.ResourceRegistration(urn, id_, outputs)
        answer = _sync_await(rpc.serialize_properties(outputs, {}))
        return resource_pb2.RegisterResourceResponse(urn=urn, id=id_, object=answer)

    def Invoke(self, request: Any) -> Any:  # noqa: N802
        """A question of the program to a provider: the digest of an image, and nothing else."""
        _ensure_event_loop()  # type: ignore[no-untyped-call]
        arguments = rpc.deserialize_properties(request.args)
        if request.tok != "docker:index/getRegistryImage:getRegistryImage":
            raise UserError(f"the stand-in engine cannot answer {request.tok}")
        answer = {"name": arguments["name"], "sha256Digest": image_digest(arguments["name"])}
        given: dict[str, Any] = {
            "return": _sync_await(rpc.serialize_properties(answer, {}))
        }  # a word that Python keeps
        return resource_pb2.ResourceInvokeResponse(**given)

    def _register(self, urn: str, request: Any, shown: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        if self.failure or self.tools.stop.is_set():
            raise self.failure or Interrupted()
        new = plain(shown)
        old = self.state.resources.get(urn)
        kind = self._kind(request.type, request.provider)
        self.registered.add(urn)
        outcome = self._outcome(kind, old, new)
        if outcome == "same" and old is not None:
            self._say("same", request.type, request.name)
            return old.id, old.outputs
        if self.preview:
            self._say(outcome, request.type, request.name, changes(old, shown) if outcome != "created" else [])
            return kind.expected(request.name, new) if old is None or outcome == "replaced" else (old.id, new)
        kept = old if outcome == "updated" else None
        id_, outputs = kind.make(request.name, new, kept)
        self.state.resources[urn] = Resource(urn, request.type, request.name, id_, new, outputs, request.provider)
        if outcome == "replaced" and old is not None:
            # The old one is remembered until it is gone: an interruption here must not lose it.
            self.state.resources[f"{urn}::replaced"] = old
        self.state.save()
        self._say(outcome, request.type, request.name)
        return id_, outputs

    def _outcome(self, kind: Kind, old: Resource | None, new: dict[str, Any]) -> str:
        if old is None:
            return "created"
        if not kind.same_identity(old.inputs, new):
            return "replaced"
        if comparable(old.inputs) != comparable(new):
            return "updated"
        return "same" if kind.is_there(old) else "updated"

    def _kind(self, type_: str, provider: str) -> Kind:
        return kind_of(type_, self._kubeconfig(provider), self.tools)

    def _kubeconfig(self, provider: str) -> Path | None:
        """The kubeconfig of a provider (`urn::id`) as a private file for as long as the engine lives."""
        known = self.state.resources.get(provider.rpartition("::")[0])
        inputs = known.inputs if known else self._previewed(provider)
        if not inputs or not inputs.get("kubeconfig"):
            return None
        if provider not in self._kubeconfigs:
            file = private_file(inputs["kubeconfig"], self.tools.scratch)
            self._kubeconfigs[provider] = self._files.enter_context(file)
        return self._kubeconfigs[provider]

    def _previewed(self, provider: str) -> dict[str, Any]:
        registration = self.resources.get(provider.rpartition("::")[0])
        return dict(registration.state) if registration else {}

    def remove(self, urns: Sequence[str]) -> None:
        """Deletes resources of the state, last made first. Raises UserError at the first that will not go."""
        for urn in reversed([urn for urn in self.state.resources if urn in set(urns)]):
            if self.tools.stop.is_set():
                raise Interrupted()
            resource = self.state.resources[urn]
            if not self.preview:
                self._kind(resource.type, resource.provider).remove(resource)
                del self.state.resources[urn]
                self.state.save()
            self._say("deleted", resource.type, resource.name)

    def leftover(self) -> list[str]:
        """What the state holds and the program no longer registers."""
        return [urn for urn in self.state.resources if urn not in self.registered]

    def _say(self, outcome: str, type_: str, name: str, details: Sequence[str] = ()) -> None:
        if type_.startswith("pulumi:providers:"):
            return
        self.counts[outcome] += 1
        word = VERBS[outcome] if self.preview else outcome
        print(f"  {SIGNS[outcome]:2} {word:8} {type_.removeprefix('pulumi-python:')}  {name}", flush=True)
        for detail in details:
            print(f"       {detail}", flush=True)

    def summary(self) -> str:
        """The counts in one line."""
        made = self.counts["created"], self.counts["updated"], self.counts["replaced"], self.counts["deleted"]
        words = (
            f"{made[0]} created, {made[1]} updated, {made[2]} replaced, {made[3]} deleted, {self.counts['same']} same"
        )
        return f"Would be: {words}" if self.preview else f"Resources: {words}"

    def close(self) -> None:
        """Removes the private files."""
        self._files.close()


class _NoMocks(mocks.Mocks):
    """The SDK asks for one; the engine answers everything itself."""

    def call(self, args: Any) -> Any:
        """Never called."""
        raise NotImplementedError

    def new_resource(self, args: Any) -> Any:
        """Never called."""
        raise NotImplementedError


def comparable(inputs: Mapping[str, Any]) -> Any:
    """Inputs without a dynamic provider's pickled self, which differs between versions of Python and means nothing."""
    return {key: value for key, value in inputs.items() if key != "__provider"}


def changes(old: Resource | None, shown: Mapping[str, Any]) -> list[str]:
    """The inputs that differ, one a line, secrets masked."""
    if old is None:
        return []
    before, after = flattened(comparable(old.inputs)), flattened(plain(comparable(shown)))
    secret = [path for path, value in flattened(masked(comparable(shown))).items() if value == "[secret]"]
    lines = []
    for path in sorted(before.keys() | after.keys()):
        if before.get(path) == after.get(path):
            continue
        if any(path == hidden or path.startswith(f"{hidden}.") for hidden in secret):
            lines.append(f"{path}: [secret]")
        else:
            was, becomes = before.get(path, "(unset)"), after.get(path, "(unset)")
            lines.append(f"{path}: {was} => {'[known once made]' if becomes == UNKNOWN else becomes}")
    return lines or ["it is not as it was left"]


def flattened(value: Any, path: str = "") -> dict[str, Any]:
    """Leaves of nested maps and lists by their dotted path."""
    if isinstance(value, dict) and value:
        entries: Sequence[tuple[str, Any]] = [(str(key), entry) for key, entry in value.items()]
    elif isinstance(value, list) and value:
        entries = [(str(index), entry) for index, entry in enumerate(value)]
    else:
        return {path: value}
    leaves: dict[str, Any] = {}
    for key, entry in entries:
        leaves.update(flattened(entry, f"{path}.{key}" if path else key))
    return leaves


MANIFESTS = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)


def image_digest(reference: str) -> str:
    """The digest of a tag in a registry on this machine, by the registry's own HTTP interface (OCI distribution)."""
    host, _, rest = reference.partition("/")
    name, _, tag = rest.partition(":")
    if not re.fullmatch(r"(localhost|127\.\d+\.\d+\.\d+)(:\d+)?", host):
        raise UserError(
            f"image {reference!r}: give it by digest (NAME@sha256:...), or by a tag in a registry on this machine"
        )
    url = f"http://{host}/v2/{name}/manifests/{tag or 'latest'}"
    request = urllib.request.Request(url, method="HEAD", headers={"Accept": MANIFESTS})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - http, and on loopback
            digest = answer.headers.get("Docker-Content-Digest")
    except (urllib.error.URLError, OSError) as error:
        raise UserError(f"image {reference!r} is not in the registry at {host}: {error}. Fix: make up") from None
    if not digest:
        raise UserError(f"the registry at {host} gave no digest for {reference!r}")
    return str(digest)


@contextlib.contextmanager
def stopping(tools: Tools) -> Iterator[None]:
    """Lets Ctrl-C and SIGTERM end the run at a point where the state is right, rather than anywhere."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        if not tools.stop.is_set():
            print("\nstopping...", file=sys.stderr, flush=True)
        tools.stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_program(engine: Engine, config: Mapping[str, str], secrets: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Runs `__main__.py`; returns its outputs and the names of the secret ones. Raises what the program raises."""

    def main_module() -> None:
        runpy.run_path(str(REPO / "__main__.py"), run_name="__main__")

    async def program() -> tuple[dict[str, Any], list[str]]:
        set_all_config(dict(config), secrets)
        # The SDK keeps the root of an earlier run in the same process, with that run's outputs.
        set_root_resource(None)  # type: ignore[arg-type]
        logger = logging.getLogger("program")
        logger.addHandler(logging.StreamHandler(sys.stderr))
        pulumi.runtime.set_mocks(
            engine.mocks, project=PROJECT, stack=engine.stack, preview=engine.preview, logger=logger, monitor=engine
        )
        await run_pulumi_func(main_module)
        exported: dict[str, Any] = getattr(get_root_resource(), "outputs", {})
        values, hidden = {}, []
        for name, value in exported.items():
            output = pulumi.Output.from_input(value)
            known = await output.is_known()
            values[name] = plain(await output.future()) if known else UNKNOWN
            if await output.is_secret():
                hidden.append(name)
        return values, hidden

    return asyncio.run(program())


def up(
    stack: str,
    overrides: Mapping[str, str] | None = None,
    *,
    preview: bool = False,
    timeout_seconds: float | None = None,
) -> dict[str, Any]:
    """Makes the stack as the program has it, and returns its outputs, secrets included.

    Raises UserError (with what is made remembered) or the program's own `pulumi.RunError`.
    """
    config, secrets = read_config(stack, overrides or {})
    refuse_unless_local(stack, config)
    path = state_path(stack)
    tools = Tools.find(path.with_name("scratch"))
    tools.timeout_seconds = timeout_seconds
    started = time.monotonic()
    print(f"{'Previewing' if preview else 'Updating'} stack {stack}\n  {NOTICE}", flush=True)
    with locked(path.with_name("engine.lock")), tools.scratch_folder(), stopping(tools), in_project():
        engine = Engine(stack, State.load(path), tools, preview)
        try:
            with quiet_asyncio():
                outputs, hidden = run_program(engine, config, secrets)
            engine.remove(engine.leftover())
        except Exception as error:
            if engine.failure and engine.failure is not error:
                raise engine.failure from None
            raise
        finally:
            engine.close()
        if not preview:
            engine.state.outputs, engine.state.secret_outputs = outputs, hidden
            engine.state.save()
        print(f"{engine.summary()} ({time.monotonic() - started:.1f} s)", flush=True)
        return outputs


def down(stack: str, *, forget: bool = False) -> None:
    """Removes all that the stack made, last made first. `forget` drops the state alone, for a cluster that is gone."""
    path = state_path(stack)
    with locked(path.with_name("engine.lock")):
        state = State.load(path)
        if forget or not state.resources:
            path.unlink(missing_ok=True)
            print(f"Stack {stack}: nothing is left of it", flush=True)
            return
        tools = Tools.find(path.with_name("scratch"))
        print(f"Removing stack {stack}\n  {NOTICE}", flush=True)
        with tools.scratch_folder(), stopping(tools):
            engine = Engine(stack, state, tools, preview=False)
            try:
                engine.remove(list(state.resources))
            except UserError as error:
                raise UserError(
                    f"{error}\nIf the cluster itself is gone: python -m local.engine down --forget"
                ) from None
            finally:
                engine.close()
        path.unlink(missing_ok=True)
        print(engine.summary(), flush=True)


def outputs(stack: str) -> tuple[dict[str, Any], list[str]]:
    """The outputs of the last complete run, and the names of the secret ones. Raises UserError where there is none."""
    state = State.load(state_path(stack))
    if not state.outputs:
        raise UserError(f"stack {stack!r} has not been made. Fix: make up")
    return state.outputs, state.secret_outputs


def refuse_unless_local(stack: str, config: Mapping[str, str]) -> None:
    """Raises UserError for any stack but one on this machine."""
    cloud = config.get(f"{PROJECT}:cloud")
    if cloud != "local":
        raise UserError(
            f"stack {stack!r} has cloud {cloud!r}. {NOTICE}\n"
            f"Fix: install the Pulumi CLI (https://www.pulumi.com/docs/install/), then: pulumi up --stack {stack}"
        )


def refuse_beside_pulumi() -> None:
    """Raises UserError where the Pulumi CLI is installed: one stack must not have two states."""
    found = shutil.which("pulumi")
    if found:
        raise UserError(f"the Pulumi CLI is installed ({found}): use it for this stack too. To insist: --beside-pulumi")


@contextlib.contextmanager
def in_project() -> Iterator[None]:
    """Runs a block in the project's folder, as Pulumi runs programs."""
    before = Path.cwd()
    os.chdir(REPO)
    sys.path.insert(0, str(REPO))
    try:
        yield
    finally:
        sys.path.remove(str(REPO))
        os.chdir(before)


@contextlib.contextmanager
def quiet_asyncio() -> Iterator[None]:
    """Keeps asyncio from reporting the failures of whatever depended on the one that failed."""
    logger = logging.getLogger("asyncio")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def print_outputs(stack: str, *, show_secrets: bool, as_json: bool, name: str | None) -> None:
    """Prints outputs as `pulumi stack output` does."""
    values, secret = outputs(stack)
    if name is not None and name not in values:
        raise UserError(f"there is no output {name!r}; there are {', '.join(values)}")
    shown = {key: "[secret]" if key in secret and not show_secrets else value for key, value in values.items()}
    if name is not None:
        # As with Pulumi, asking for one secret by its name shows it.
        print(values[name])
    elif as_json:
        print(json.dumps(shown, indent=2))
    else:
        width = max(map(len, shown))
        for key, value in shown.items():
            print(f"  {key:{width}}  {value}")


def pair(text: str) -> tuple[str, str]:
    """`key=value` as a pair."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise argparse.ArgumentTypeError(f"{text!r} is not key=value")
    return key, value


def parser() -> argparse.ArgumentParser:
    """The command line."""
    whole = argparse.ArgumentParser(prog="python -m local.engine", description=NOTICE)
    whole.add_argument("--beside-pulumi", action="store_true", help="run though the Pulumi CLI is installed")
    commands = whole.add_subparsers(dest="command", required=True)
    for name, text in (
        ("up", "make the stack as the program has it"),
        ("preview", "show what up would change"),
        ("down", "remove all that the stack made"),
        ("output", "show the outputs of the last run"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("--stack", default="dev")
        if name in ("up", "preview"):
            command.add_argument("--config", type=pair, action="append", default=[], metavar="KEY=VALUE")
            command.add_argument("--timeout", type=float, metavar="SECONDS", help="how long pods may take to be ready")
        if name == "down":
            command.add_argument("--forget", action="store_true", help="the cluster is gone: drop the state alone")
        if name == "output":
            command.add_argument("name", nargs="?")
            command.add_argument("--json", action="store_true")
            command.add_argument("--show-secrets", action="store_true")
    return whole


def run(arguments: argparse.Namespace) -> None:
    """Carries out one command."""
    if arguments.command == "output":
        print_outputs(arguments.stack, show_secrets=arguments.show_secrets, as_json=arguments.json, name=arguments.name)
        return
    if not arguments.beside_pulumi:
        refuse_beside_pulumi()
    if arguments.command == "down":
        down(arguments.stack, forget=arguments.forget)
        return
    preview = arguments.command == "preview"
    up(arguments.stack, dict(arguments.config), preview=preview, timeout_seconds=arguments.timeout)
    if not preview:
        print("Outputs:")
        print_outputs(arguments.stack, show_secrets=False, as_json=False, name=None)


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0, 1 for what a person can mend, 130 when interrupted."""
    try:
        run(parser().parse_args(argv))
    except (Interrupted, KeyboardInterrupt) as error:
        print(f"error: {error}", file=sys.stderr)
        return 130
    except (UserError, pulumi.RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        if "pulumi config" in str(error):
            print("Without the Pulumi CLI: edit Pulumi.STACK.yaml, or give --config KEY=VALUE.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
