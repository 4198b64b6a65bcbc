"""The secrets that are drawn once, through the very process that the Pulumi engine starts for dynamic providers."""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from pulumi.dynamic.dynamic import serialize_provider
from pulumi.runtime.proto import provider_pb2 as messages
from pulumi.runtime.proto import provider_pb2_grpc as services

from components.dynamic.kept_secret import ALPHABET, KeptSecretProvider

ROOT = Path(__file__).resolve().parents[2]
URN = "urn:pulumi:dev::future-kubernetes::pulumi-python:dynamic/future-kubernetes:KeptSecret::password"


def struct(values: dict[str, Any]) -> Struct:
    message = Struct()
    message.update(values)
    return message


@pytest.fixture(scope="module")
def provider() -> Iterator[services.ResourceProviderStub]:
    """The SDK's own dynamic provider, started as the engine starts it: in the project's folder."""
    process = subprocess.Popen([sys.executable, "-m", "pulumi.dynamic"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        with grpc.insecure_channel(f"127.0.0.1:{process.stdout.readline().strip()}") as channel:
            yield services.ResourceProviderStub(channel)
    finally:
        process.terminate()
        process.wait()


def inputs(length: int) -> dict[str, Any]:
    return {"length": length, "__provider": serialize_provider(KeptSecretProvider())}


def create(provider: services.ResourceProviderStub, length: int) -> dict[str, Any]:
    made = provider.Create(messages.CreateRequest(urn=URN, properties=struct(inputs(length))), timeout=30)
    assert made.id
    return dict(json_format.MessageToDict(made.properties))


def test_the_engines_process_draws_a_secret_of_the_asked_length(provider: services.ResourceProviderStub) -> None:
    drawn = create(provider, 48)["value"]
    assert len(drawn) == 48
    assert set(drawn) <= set(ALPHABET)
    assert create(provider, 48)["value"] != drawn


def test_nothing_is_drawn_again_when_nothing_but_the_pickle_changed(provider: services.ResourceProviderStub) -> None:
    old = create(provider, 16)
    old["__provider"] = "an older Python's pickle"
    request = messages.DiffRequest(id="x", urn=URN, olds=struct(old), news=struct(inputs(16)))
    assert provider.Diff(request, timeout=30).changes == messages.DiffResponse.DIFF_NONE


def test_another_length_draws_anew(provider: services.ResourceProviderStub) -> None:
    request = messages.DiffRequest(id="x", urn=URN, olds=struct(create(provider, 16)), news=struct(inputs(20)))
    answer = provider.Diff(request, timeout=30)
    assert (answer.changes, list(answer.replaces)) == (messages.DiffResponse.DIFF_SOME, ["length"])


def test_an_update_keeps_what_was_drawn(provider: services.ResourceProviderStub) -> None:
    old = create(provider, 16)
    updated = provider.Update(
        messages.UpdateRequest(id="x", urn=URN, olds=struct(old), news=struct(inputs(16))), timeout=30
    )
    assert json_format.MessageToDict(updated.properties)["value"] == old["value"]


def test_the_pickled_provider_is_a_reference_that_is_the_same_each_time() -> None:
    first, second = serialize_provider(KeptSecretProvider()), serialize_provider(KeptSecretProvider())
    assert first == second
    assert b"components.dynamic.kept_secret" in base64.b64decode(first)
    assert len(first) < 300, "the class itself was pickled, which depends on the version of Python"
