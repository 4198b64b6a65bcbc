"""What each unit test has, as a program has: an event loop of its own, for the SDK's outputs, and a Docker."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def event_loop_of_its_own() -> Iterator[None]:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    loop.close()


@pytest.fixture(autouse=True)
def docker_that_builds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Docker to build with: the program refuses an update without, and no test here builds anything."""
    monkeypatch.setenv("DOCKER_HOST", "tcp://docker.invalid:2376")
