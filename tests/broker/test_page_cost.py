"""Cost of the live page: one feed for all pages, none without one, and a bound for each message."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from image.broker.background import Background
from image.broker.page import server
from image.broker.page.feed import Feed
from image.broker.plans import Task
from image.broker.reports import Reports


class Counting:
    """A feed that counts how often it is asked."""

    started = 1.0

    def __init__(self, size: int = 0) -> None:
        self.asked = self.number = 0
        self._more = "x" * size

    def changes(self) -> dict[str, Any]:
        self.asked += 1
        return {"more": self._more}

    def moved(self) -> tuple[int, ...]:
        return (self.number,)

    def everything(self) -> dict[str, Any]:
        return {}

    def sample(self) -> None:
        pass

    async def ask_kubernetes(self) -> None:
        pass


@contextlib.contextmanager
def ticking(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(server, "_TICK_SECONDS", 0.05)
    yield


async def serve(feed: Counting, folder: Path) -> server.PageServer:
    loop = asyncio.get_running_loop()
    made = server.PageServer(loop, cast(Feed, feed), Background(loop))
    await made.listen(folder)
    return made


async def opened(folder: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_unix_connection(folder / server.SOCKET)
    writer.write(b"GET /events HTTP/1.0\r\n\r\n")
    await reader.readuntil(b"event: all")
    return reader, writer


def test_changes_are_made_once_for_all_pages_never_for_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        feed = Counting()
        await serve(feed, tmp_path)
        await asyncio.sleep(0.3)
        assert feed.asked == 0
        pages = [await opened(tmp_path) for _ in range(10)]
        before = feed.asked
        for _ in range(4):
            for reader, _writer in pages:
                await reader.readuntil(b"event: new")
        assert feed.asked - before < 20, "ten pages, four ticks each"
        for _reader, writer in pages:
            writer.close()
        await asyncio.sleep(0.3)
        before = feed.asked
        await asyncio.sleep(0.3)
        assert feed.asked == before

    with ticking(monkeypatch):
        asyncio.run(story())


def test_changes_are_made_seldom_while_nothing_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        feed = Counting()
        await serve(feed, tmp_path)
        _reader, writer = await opened(tmp_path)
        before = feed.asked
        await asyncio.sleep(20 * 0.05)
        assert 1 <= feed.asked - before <= 5, "every fourth of twenty ticks"
        before = feed.asked
        for _ in range(10):
            feed.number += 1
            await asyncio.sleep(2 * 0.05)
        assert feed.asked - before >= 9, "each move within two ticks"
        writer.close()

    with ticking(monkeypatch):
        asyncio.run(story())


def test_page_that_does_not_read_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        made = await serve(Counting(size=1 << 20), tmp_path)
        with silent_page(tmp_path):
            while not made._pages:
                await asyncio.sleep(0.01)
            async with asyncio.timeout(10):
                while made._pages:
                    await asyncio.sleep(0.01)

    with ticking(monkeypatch):
        asyncio.run(story())


@contextlib.contextmanager
def silent_page(folder: Path) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(str(folder / server.SOCKET))
        silent.sendall(b"GET /events HTTP/1.0\r\n\r\n")
        yield


def test_broker_goes_on_where_the_page_cannot_listen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(serve(Counting(), tmp_path / "missing"))
    assert "no live page" in capsys.readouterr().err


def feed_of(reports: Reports, scaler: SimpleNamespace) -> Feed:
    """The feed of a broker without workers and without sessions."""
    return Feed(
        cast(Any, SimpleNamespace(workers=[], retiring=[], leased={}, connected=0)),
        cast(Any, SimpleNamespace(reports=reports, plans={})),
        cast(Any, SimpleNamespace(queue=[], in_use=lambda: False)),
        cast(Any, SimpleNamespace(total=lambda: 0)),
        cast(Any, scaler),
        cast(Any, SimpleNamespace(started=1.0, last_active=1.0)),
        cast(Any, SimpleNamespace(usage=lambda: None, deaths=[])),
    )


def test_kubernetes_is_asked_right_after_a_nodes_start(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    clock = SimpleNamespace(now=0.5)

    async def status() -> str:
        asked.append(clock.now)
        return "0 0\t\t\t"

    feed = feed_of(Reports(), SimpleNamespace(maximum=lambda: None, status=status))
    monkeypatch.setattr("image.broker.page.feed.time.monotonic", lambda: clock.now)
    for clock.now in (0.5, 1.0, 14.0, 16.0, 17.0):
        asyncio.run(feed.ask_kubernetes())
    assert asked == [0.5, 16.0]


def test_burst_of_tasks_is_bounded_and_the_rest_is_counted() -> None:
    reports = Reports()
    feed = feed_of(reports, SimpleNamespace(maximum=lambda: None, setting=lambda _: 0.0, text=lambda _: ""))
    feed.changes()
    plan = cast(Any, SimpleNamespace(pid=1, run=""))
    for number in range(6000):
        task = Task(plan, number, "y" * 300, None)
        reports.note("started", task, worker="a")
        reports.note("ended", task, outcome="done")
    message = feed.changes()
    assert len(message["bars"]) == 1000
    assert message["bars"][-1][0] == "1-5999-1", "the latest are kept"
    assert message["dropped"] == 12_000 - 2000
    assert len(json.dumps(message)) < 250_000
    assert len(feed.everything()["bars"]) == 5000, "those of the last 10,000 events"
    assert len(json.dumps(feed.everything())) < 1_500_000
    assert not feed.changes()["bars"]
