"""Runs the whole program under mocks and records every registered resource, every data source call, every message.

Only the clouds' APIs are mocked. Values that a real provider computes (generated names, endpoints) are invented here.
Inputs are kept as the program sent them, secrets still marked.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import runpy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pulumi
import yaml
from google.protobuf import json_format
from pulumi.runtime import mocks, set_all_config, stack

ROOT = Path(__file__).resolve().parents[2]
SECRET_MARK = "1b47061264138c4ac30d75fd1eb44270"
DRAWN = "0a1b2c3"
"""Suffix that the mocked provider appends where Pulumi generates a name."""

Answer = Callable[[Mapping[str, Any]], Any]


def is_secret(value: Any) -> bool:
    """True for a recorded value that is marked as a secret."""
    return isinstance(value, dict) and value.get("4dabf18193072939515e22adb298388d") == SECRET_MARK


def plain(value: Any) -> Any:
    """A recorded value without secret marks."""
    if is_secret(value):
        return plain(value["value"])
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def the_same(timeouts: Any) -> str:
    """The one limit of a resource's creation, change and deletion; else all three."""
    given = [timeouts.create, timeouts.update, timeouts.delete]
    return given[0] if len(set(given)) == 1 else "/".join(given)


@dataclass
class Recorded:
    """One registered resource: its inputs, options and dependencies."""

    urn: str
    type: str
    name: str
    parent: str
    provider: str
    sent: dict[str, Any]
    depends_on: set[str]
    ignore_changes: list[str]
    replace_on_changes: list[str]
    delete_before_replace: bool
    custom: bool
    aliases: int
    protect: bool
    timeouts: str
    """Limit of its creation, change and deletion, where all three are the same."""
    secret_outputs: set[str]
    """Outputs that the provider returns and the state keeps as secrets."""

    @property
    def inputs(self) -> dict[str, Any]:
        """The inputs, including secrets, without marks."""
        return dict(plain(self.sent))

    @property
    def secrets(self) -> set[str]:
        """Names of the inputs that are secret."""
        return {key for key, value in self.sent.items() if is_secret(value)}


@dataclass
class Recording:
    """Everything that one run of the program did."""

    resources: list[Recorded] = field(default_factory=list)
    asked: list[tuple[str, dict[str, Any], str]] = field(default_factory=list)
    """Data source calls: token, arguments, provider."""
    said: list[tuple[str, str]] = field(default_factory=list)
    """Messages: severity, text."""
    outputs: dict[str, Any] = field(default_factory=dict)

    def one(self, type_: str, name_part: str = "") -> Recorded:
        """The only resource of this type (its end is enough) whose name contains `name_part`."""
        found = self.all(type_, name_part)
        assert len(found) == 1, f"{len(found)} of {type_} {name_part}: {[resource.name for resource in found]}"
        return found[0]

    def all(self, type_: str, name_part: str = "") -> list[Recorded]:
        """Every resource of this type whose name contains `name_part`, by name: the SDK registers in no fixed order."""
        found = [entry for entry in self.resources if entry.type.endswith(type_) and name_part in entry.name]
        return sorted(found, key=lambda entry: entry.name)

    def below(self, resource: Recorded) -> set[str]:
        """URNs of all direct and indirect dependencies of `resource`, which destroy deletes after it."""
        by_urn = {entry.urn: entry for entry in self.resources}
        found: set[str] = set()
        todo = [resource.urn]
        while todo:
            entry = by_urn.get(todo.pop())
            if entry is None:
                continue
            needs = set(entry.depends_on)
            if entry.provider:
                needs.add(entry.provider.rsplit("::", 1)[0])
            todo += needs - found
            found |= needs
        return found

    def goes_before(self, first: Recorded, then: Recorded) -> bool:
        """True where dependencies make destroy delete `first` before `then`."""
        return then.urn in self.below(first)

    @property
    def warnings(self) -> list[str]:
        """Messages of severity warning or error."""
        return [text for severity, text in self.said if severity in ("WARNING", "ERROR")]


def unchecked(done: Recording) -> str:
    """The messages of a run about checks that were skipped."""
    return "\n".join(text for severity, text in done.said if severity == "INFO" and text.startswith("not checked: "))


class Engine(mocks.MockEngine):
    """Records the program's log messages."""

    def __init__(self, recording: Recording) -> None:
        super().__init__(logging.getLogger("pulumi-stand-in"))
        self.recording = recording

    def Log(self, request: Any) -> Any:  # noqa: N802 - the name of the remote call
        """One message of the program."""
        names = {0: "DEBUG", 1: "INFO", 2: "WARNING", 3: "ERROR"}
        self.recording.said.append((names.get(request.severity, "ERROR"), request.message))


class Monitor(mocks.MockMonitor):
    """The SDK's mock monitor, which also records parents, dependencies and options."""

    def __init__(self, cloud: mocks.Mocks, recording: Recording) -> None:
        super().__init__(cloud)
        self.recording = recording

    def Invoke(self, request: Any) -> Any:  # noqa: N802
        """One data source call."""
        args = json_format.MessageToDict(request.args)
        self.recording.asked.append((request.tok, args, request.provider))
        return super().Invoke(request)  # type: ignore[no-untyped-call]

    def RegisterResource(self, request: Any) -> Any:  # noqa: N802
        """One resource."""
        if request.type != "pulumi:pulumi:Stack":
            urn = self.make_urn(request.parent, request.type, request.name)
            depends_on = set(request.dependencies)
            for property_dependency in request.propertyDependencies.values():
                depends_on |= set(property_dependency.urns)
            self.recording.resources.append(
                Recorded(
                    urn=urn,
                    type=request.type,
                    name=request.name,
                    parent=request.parent,
                    provider=request.provider,
                    sent=json_format.MessageToDict(request.object),
                    depends_on=depends_on,
                    ignore_changes=list(request.ignoreChanges),
                    replace_on_changes=list(request.replaceOnChanges),
                    delete_before_replace=bool(request.deleteBeforeReplace),
                    custom=bool(request.custom),
                    aliases=len(request.aliases),
                    protect=bool(request.protect),
                    timeouts=the_same(request.customTimeouts),
                    secret_outputs=set(request.additionalSecretOutputs),
                )
            )
        return super().RegisterResource(request)  # type: ignore[no-untyped-call]


class Cloud(mocks.Mocks):
    """A provider that accepts every resource.

    answers: functions of its data sources, by token. A PermissionError from one becomes the provider's refusal.
    computed: outputs of a resource that a real provider would compute.
    """

    def __init__(
        self, answers: Mapping[str, Answer], computed: Callable[[str, str, dict[str, Any]], dict[str, Any]]
    ) -> None:
        self.answers = answers
        self.computed = computed

    def call(self, args: mocks.MockCallArgs) -> Any:
        """The answer of a data source, or its refusal."""
        if args.token not in self.answers:
            raise AssertionError(f"the program called {args.token}, for which this test has no answer")
        try:
            return self.answers[args.token](args.args)
        except PermissionError as refusal:
            return {}, [("", str(refusal))]

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str, dict[str, Any]]:
        """The ID and the state of a resource."""
        state = dict(args.inputs)
        if args.typ == "random:index/randomPassword:RandomPassword":
            state["result"] = "drawn-" + "x" * 12
        if args.typ == "random:index/randomId:RandomId":
            state["hex"] = DRAWN
        state |= self.computed(args.typ, args.name, state)
        return state.get("id", f"{args.name}-id"), state


def run(
    config: Mapping[str, Any],
    answers: Mapping[str, Answer],
    computed: Callable[[str, str, dict[str, Any]], dict[str, Any]],
    *,
    stack_name: str = "team",
    preview: bool = False,
) -> Recording:
    """Runs `__main__.py` as stack `stack_name` with `config` (keys without namespace). Raises Refused."""
    # The SDK keeps state in the event loop's context, so each run needs its own.
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    # Otherwise this run would wait for outputs of an earlier test, whose loop is closed.
    pulumi.runtime.settings.SETTINGS.outputs.clear()
    recording = Recording()
    mocks.set_mocks(
        Cloud(answers, computed),
        project="future-kubernetes",
        stack=stack_name,
        preview=preview,
        organization="organization",
        monitor=Monitor(Cloud(answers, computed), recording),
    )
    pulumi.runtime.settings.SETTINGS.engine = Engine(recording)
    values = {
        f"future-kubernetes:{key}": value if isinstance(value, str) else yaml_text(value)
        for key, value in config.items()
    }
    set_all_config(values, [])

    def main() -> None:
        runpy.run_path(str(ROOT / "__main__.py"), run_name="__main__")

    async def program() -> None:
        await stack.run_pulumi_func(main)

    try:
        try:
            loop.run_until_complete(program())
        except Exception as error:
            # Else asyncio would log the errors of every resource that depends on a failed one: 60,000 lines in one run
            # of the tests. Pulumi's own start program does not log them either.
            loop.set_exception_handler(lambda *_: None)
            raise Refused(error, recording) from error
        root = pulumi.runtime.get_root_resource()
        outputs = dict(root.outputs) if isinstance(root, stack.Stack) else {}
        for name, value in outputs.items():
            recording.outputs[name] = loop.run_until_complete(resolved(value))
    finally:
        loop.close()
        asyncio.set_event_loop(None)
    return recording


class Refused(Exception):  # noqa: N818
    """The program failed with `error`. `recording` has everything up to then."""

    def __init__(self, error: Exception, recording: Recording) -> None:
        super().__init__(str(error))
        self.error, self.recording = error, recording

    @property
    def nothing_was_made(self) -> bool:
        """True where only providers, which are no more than credentials, were registered."""
        return all(
            not resource.custom or resource.type.startswith("pulumi:providers:")
            for resource in self.recording.resources
        )


def refusal_of(program: Callable[[], object]) -> str:
    """The message with which a run of the program is refused, before anything is created."""
    refused = None
    try:
        program()
    except Refused as error:
        refused = error
    assert refused, "the program was not refused"
    assert refused.nothing_was_made, [resource.urn for resource in refused.recording.resources]
    assert isinstance(refused.error, pulumi.RunError), "printed with a stack trace"
    return str(refused)


async def resolved(value: Any) -> tuple[Any, bool]:
    """An exported value, and whether it is a secret."""
    output = pulumi.Output.from_input(value)
    return await output.future(), await output.is_secret()


def yaml_text(value: Any) -> str:
    """A config value as Pulumi passes it: text, or JSON for lists and maps."""
    return value if isinstance(value, str) else json.dumps(value)


def stack_config(name: str) -> dict[str, Any]:
    """The config of an example stack, by key."""
    content = yaml.safe_load((ROOT / f"Pulumi.{name}.yaml").read_text())["config"]
    return {key.removeprefix("future-kubernetes:"): value for key, value in content.items()}


def listing(recording: Recording) -> str:
    """The golden list of a run: each resource's type and name, its parent, its dependencies, its guarding options.

    The parent is part of the URN. Another parent is another URN, for which Pulumi would replace the resource.
    """
    lines = []
    short = {resource.urn: f"{resource.type.split(':')[-1]}/{resource.name}" for resource in recording.resources}
    for resource in sorted(recording.resources, key=lambda entry: (entry.type, entry.name)):
        parts = [f"{resource.type} {resource.name}"]
        if resource.parent in short:  # else the stack itself
            parts.append(f"  in {short[resource.parent]}")
        for urn in sorted(resource.depends_on, key=lambda urn: short.get(urn, urn)):
            parts.append(f"  needs {short.get(urn, urn)}")
        if resource.secrets:
            parts.append(f"  secret {', '.join(sorted(resource.secrets))}")
        if resource.ignore_changes:
            parts.append(f"  ignores {', '.join(resource.ignore_changes)}")
        if resource.replace_on_changes:
            parts.append(f"  replaced on {', '.join(resource.replace_on_changes)}")
        lines += parts
    return "\n".join(lines) + "\n"


def labelled(resource: Recorded, modules: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    """The input by which this type takes labels or tags (one of `keys`), read from the SDK; None where it has none."""
    package, rest = resource.type.split(":", 1)
    if package not in modules:
        return None
    module, name = rest.split("/")[0], resource.type.split(":")[-1]
    args = inspect.signature(getattr(getattr(modules[package], module), f"{name}Args").__init__).parameters
    return next((key for key in keys if key in args), None)
