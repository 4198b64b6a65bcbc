"""Fixtures of every unit test: an event loop for the SDK's outputs, and a Docker host."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator

import pulumi
import pytest

from components.clouds.google import rest
from tests.unit.google_cloud import kubernetes_engine


@pytest.fixture(autouse=True)
def event_loop_of_its_own() -> Iterator[None]:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    # A program that failed leaves outputs, which the next program would wait for on a closed loop.
    pulumi.runtime.settings.SETTINGS.outputs.clear()
    loop.close()


@pytest.fixture(autouse=True)
def docker_that_builds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Docker host that nothing connects to. Without one the program refuses an update that builds an image."""
    monkeypatch.setenv("DOCKER_HOST", "tcp://docker.invalid:2376")


@pytest.fixture
def installed_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command is found on PATH, such as the clouds' command lines."""
    monkeypatch.setattr(shutil, "which", lambda name: f"/nowhere/bin/{name}")


@pytest.fixture(autouse=True)
def google_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Google's price list and Kubernetes versions of the tests. No test asks Google."""
    monkeypatch.setattr(rest, "fetch", kubernetes_engine())
