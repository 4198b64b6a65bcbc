"""A random text that is drawn once, kept as a secret in the stack's state, and never drawn again.

A dynamic resource, so that no provider beyond Pulumi's own need be installed. This module imports nothing but Pulumi:
the engine loads it anew, in a process of its own, for each run.
"""

from __future__ import annotations

import secrets
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, Resource, ResourceProvider, UpdateResult

ALPHABET = "abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"
"""Letters and digits without those that are taken for one another (0 O, 1 l I, o), since people type passwords."""


class KeptSecretProvider(ResourceProvider):
    """Draws at creation alone."""

    # It captures nothing, and a provider that is a secret makes everything that came with it a secret too.
    serialize_as_secret_always = False

    def create(self, props: dict[str, Any]) -> CreateResult:
        """Draws the text."""
        drawn = "".join(secrets.choice(ALPHABET) for _ in range(int(props["length"])))
        return CreateResult(f"kept-{secrets.token_hex(8)}", {"length": props["length"], "value": drawn})

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        """Another length is drawn anew; nothing else, such as a newer Python that pickles this class, is a change."""
        return DiffResult(
            changes=int(_olds["length"]) != int(_news["length"]),
            replaces=["length"] if int(_olds["length"]) != int(_news["length"]) else [],
        )

    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        """Keeps what was drawn."""
        return UpdateResult({"length": _news["length"], "value": _olds["value"]})


class KeptSecret(Resource, module="future-kubernetes", name="KeptSecret"):
    """A random text of `length` letters and digits. `value` is a secret output."""

    value: pulumi.Output[str]

    def __init__(self, name: str, length: int, opts: pulumi.ResourceOptions | None = None) -> None:
        own = pulumi.ResourceOptions(additional_secret_outputs=["value"])
        super().__init__(
            KeptSecretProvider(), name, {"length": length, "value": None}, pulumi.ResourceOptions.merge(own, opts)
        )

    @property
    def secret(self) -> pulumi.Output[str]:
        """`value`, marked as a secret here too: under the SDK's mocks the option above has no effect."""
        return pulumi.Output.all(pulumi.Output.secret(""), self.value).apply(lambda parts: str(parts[1]))
