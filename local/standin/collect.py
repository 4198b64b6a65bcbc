"""Runs the program `__main__.py` under the Pulumi SDK's mocks and collects the resources that it registers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import runpy
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from string import ascii_lowercase, ascii_uppercase, digits
from typing import Any

import pulumi
from pulumi.runtime import mocks, rpc, set_all_config
from pulumi.runtime.settings import get_root_resource, set_root_resource
from pulumi.runtime.stack import run_pulumi_func

from common.errors import UserError
from common.paths import REPO
from local.stack_config import PROJECT, SECRET_KEYS

GENERATED_TEXT = "random:index/randomPassword:RandomPassword"
RELEASE = "Release.v3.helm.sh"
"""Kind of a Helm release in the stand-in's keys."""


@dataclass
class Program(mocks.Mocks):
    """One run of the program. drawn: generated secrets by resource name; the run adds new ones.

    `resources` (inputs by key) are ordered: each resource follows all its dependencies.
    """

    drawn: dict[str, str]
    resources: dict[str, dict[str, Any]] = field(default_factory=dict)
    kubeconfig: str = ""
    outputs: dict[str, Any] = field(default_factory=dict)
    error: UserError | None = None

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str, dict[str, Any]]:
        """Collects a resource; returns its outputs."""
        inputs = plain(args.inputs)
        if args.typ == GENERATED_TEXT:
            text = self.drawn.setdefault(args.name, draw(inputs))
            secret = {rpc._special_sig_key: rpc._special_secret_sig, "value": text}  # the engine's mark of a secret
            return args.name, {**inputs, "result": secret}
        if args.typ == "pulumi:providers:kubernetes":
            self.kubeconfig = inputs["kubeconfig"]
        elif args.typ.startswith("kubernetes:"):
            self.resources[resource_key(args.typ, inputs)] = inputs
        elif args.custom:
            raise self._refused(f"create {args.typ}")
        return args.name, inputs

    def call(self, args: mocks.MockCallArgs) -> Any:
        """Refuses every provider function: stack dev needs none."""
        raise self._refused(f"call {args.token}")

    def _refused(self, what: str) -> UserError:
        error = UserError(
            f"the stand-in for Pulumi cannot {what}: it supports only what stack dev needs, with an image by digest\n"
            "    fix: install the Pulumi CLI (https://www.pulumi.com/docs/install/), then: make down && make up"
        )
        self.error = self.error or error  # later errors only follow from the first
        return error

    def run(self, stack: str, config: Mapping[str, str]) -> None:
        """Runs the program and fills the fields. Raises UserError, or the program's own pulumi.RunError."""
        # Else asyncio would log the errors of every resource that depends on a failed one.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        with contextlib.chdir(REPO):
            try:
                asyncio.run(self._run(stack, config))
            except Exception as error:
                raise self.error or error from None

    async def _run(self, stack: str, config: Mapping[str, str]) -> None:
        values = {f"{PROJECT}:{key}": value for key, value in config.items()}
        set_all_config(values, [f"{PROJECT}:{key}" for key in SECRET_KEYS])
        # Else the SDK would keep the outputs of an earlier run in the same process.
        set_root_resource(None)  # type: ignore[arg-type]
        pulumi.runtime.set_mocks(self, project=PROJECT, stack=stack, preview=False)
        await run_pulumi_func(_run_main)
        for name, value in getattr(get_root_resource(), "outputs", {}).items():
            self.outputs[name] = plain(await pulumi.Output.from_input(value).future())


def _run_main() -> None:
    runpy.run_path(str(REPO / "__main__.py"), run_name="__main__")


def resource_key(type_: str, inputs: Mapping[str, Any]) -> str:
    """Return KIND/NAMESPACE/NAME, by which kubectl or Helm finds the resource again."""
    _, group, version, kind = re.split("[:/]", type_)
    place = inputs.get("metadata", inputs)  # a Helm release has no metadata
    return f"{kind if group == 'core' else f'{kind}.{version}.{group}'}/{place.get('namespace', '')}/{place['name']}"


def draw(inputs: Mapping[str, Any]) -> str:
    """Return a random text by the inputs of pulumi_random's RandomPassword: `length`, `overrideSpecial`, kinds."""
    special = inputs.get("overrideSpecial") or "!@#$%&*()-_=+[]{}<>:?"
    kinds = {"lower": ascii_lowercase, "upper": ascii_uppercase, "numeric": digits, "special": special}
    alphabet = "".join(letters for kind, letters in kinds.items() if inputs.get(kind, True))
    return "".join(secrets.choice(alphabet) for _ in range(inputs["length"]))


def plain(value: Any) -> Any:
    """Return a deserialized property without secret wrappers. Whole numbers become int (protobuf has only doubles)."""
    if rpc.is_rpc_secret(value):
        return plain(rpc.unwrap_rpc_secret(value))
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
