"""The report on what futures did: its figures on known events, and its file."""

from __future__ import annotations

import html
import sys
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any, cast

import pytest

from image.broker import reports as reports_module
from image.broker.plans import Task
from image.broker.reports import Reports
from image.broker.run_report.figures import Figures, Scope, figures, group_of
from image.broker.run_report.page import page, summary
from image.broker.run_report.stream import MAX_BARS, stream
from image.broker.run_report.text import duration, size

T0 = 1_700_000_000.0


class Log:
    """Events of one session, written down by hand."""

    def __init__(self, session: int = 1, run: str = "") -> None:
        self.events: list[dict[str, Any]] = []
        self.common: dict[str, Any] = {"session": session, **({"run": run} if run else {})}

    def add(self, at: float, event: str, task: int, attempt: int = 1, label: str = "", **more: Any) -> None:
        self.events.append(
            {"at": T0 + at, "event": event, "task": task, "attempt": attempt, "label": label, **self.common, **more}
        )

    def submitted(self, at: float, *tasks: int, label: str = "", size: int = 100) -> None:
        for task in tasks:
            self.add(at, "submitted", task, label=label, bytes=size)

    def ran(
        self, task: int, worker: str, begin: float, end: float, *, label: str = "", cpu: float | None = None,
        attempt: int = 1, objects: int = 0, saved: int = 0,
    ) -> None:  # fmt: skip
        self.add(begin, "started", task, attempt, label, worker=worker, **({"objects": objects} if objects else {}))
        more = {} if cpu is None else {"cpu": cpu}
        more |= {"saved": saved} if saved else {}
        self.add(end, "ended", task, attempt, label, worker=worker, outcome="done", bytes=1000, peak_mib=50, **more)

    def figures(self, now: float = 100.0, since: float = -1.0, held_since: float = -2.0, **scope: Any) -> Figures:
        events = sorted(self.events, key=lambda event: float(event["at"]))
        return figures(events, Scope(T0 + since, **scope), T0 + now, T0 + held_since)


@pytest.fixture
def known() -> Log:
    """Four futures of 10 s on two workers, of which the second comes 5 s late: 25 s instead of 20."""
    log = Log()
    log.submitted(0, 1, 2, 3, 4, label="fit-1")
    log.ran(1, "a", 0, 10, label="fit-1", cpu=9.5, objects=5000)
    log.ran(2, "b", 5, 15, cpu=9.5)
    log.ran(3, "a", 10, 20, cpu=9.5)
    log.ran(4, "b", 15, 25, cpu=9.5)
    return log


def test_efficiency_is_ideal_over_wall_time(known: Log) -> None:
    found = known.figures()
    assert (found.wall, found.peak_workers, found.useful, found.ideal) == (25, 2, 40, 20)
    assert found.efficiency == pytest.approx(0.8)
    assert found.cpu == pytest.approx(38)
    assert (found.sent, found.objects, found.received) == (400, 5000, 4000)
    assert found.worker_seconds == 20 + 20
    assert found.outcomes == {"done": 4}
    assert [run.waited for run in found.attempts] == [0, 5, 10, 15]
    # The longest future bounds the ideal, so that one long future is not called inefficient.
    one = Log()
    one.submitted(0, 1, 2)
    one.ran(1, "a", 0, 20)
    one.ran(2, "b", 0, 2)
    assert one.figures().efficiency == pytest.approx(1.0)


def test_bytes_of_a_value_already_there_did_not_move() -> None:
    log = Log()
    log.submitted(0, 1, 2)
    log.ran(1, "a", 0, 10)
    log.ran(2, "a", 10, 20, saved=900)
    found = log.figures()
    assert found.received == 1100
    assert [run.result for run in found.attempts] == [1000, 1000], "each result has its own size"


def test_lost_run_is_no_work_and_its_future_counts_once() -> None:
    log = Log()
    log.submitted(0, 1)
    log.add(1, "started", 1, worker="a")
    log.add(5, "lost", 1, worker="a", reason="R was killed: out of memory")
    log.ran(1, "b", 6, 10, attempt=2)
    log.submitted(10, 2)
    log.add(10, "started", 2, worker="b")
    log.add(12, "lost", 2, worker="b", reason="the pod was deleted")
    log.add(12, "ended", 2, outcome="lost", bytes=10)
    found = log.figures()
    assert found.outcomes == {"done": 1, "lost": 1}
    assert [run.worker for run in found.losses] == ["a", "b"]
    assert (found.useful, found.wasted, found.wall) == (4, 6, 12)
    assert found.attempts[1].waited == 1, "since the loss"
    assert found.cpu is None
    text = page(found, "x", None)
    assert "out of memory" in text
    assert "workerMemoryGiB" in text, "what helps"


def test_future_that_its_session_sends_again_waits_once() -> None:
    log = Log()
    log.submitted(0, 1)
    log.add(1, "started", 1, worker="a")
    log.add(2, "lost", 1, worker="a", reason="the broker restarted meanwhile")
    log.submitted(3, 1)
    log.ran(1, "a", 5, 6)
    found = log.figures()
    assert found.outcomes == {"done": 1}
    assert found.waiting == [(T0, 1), (T0 + 1, 0), (T0 + 2, 1), (T0 + 3, 1), (T0 + 5, 0)]
    assert found.running == [(T0 + 1, 1), (T0 + 2, 0), (T0 + 5, 1), (T0 + 6, 0)]


def test_futures_that_wait_and_run_count_up_to_now() -> None:
    log = Log()
    log.submitted(0, 1, 2)
    log.add(2, "started", 1, worker="a")
    found = log.figures(now=10)
    assert found.outcomes == {"waiting": 1, "running": 1}
    assert found.wall == 10
    assert found.efficiency is None
    assert found.lanes[0].busy == 8
    assert "still running" in page(found, "x", None)
    log.add(11, "cancelled", 1)
    log.add(11, "cancelled", 2)
    assert log.figures(now=50).outcomes == {"cancelled": 2}
    assert log.figures(now=50).wall == 11


def test_report_is_about_its_session_run_and_time_only(known: Log) -> None:
    other = Log(session=7, run="20261129-000000-abcd")
    other.submitted(0, 1)
    other.ran(1, "c", 1, 3)
    known.events += other.events
    assert known.figures(session=1).outcomes == {"done": 4}
    assert known.figures(session=7).wall == 3
    assert known.figures(run="20261129-000000-abcd").useful == 2
    assert known.figures(run="20261129-000000-abce").outcomes == {}
    late = known.figures(session=1, since=12)
    assert late.outcomes == {"done": 3}, "those that ended since"
    assert len(late.attempts) == 1
    assert late.unseen == 2
    assert "2 futures ended here and began before" in page(late, "x", None)


def test_second_plan_of_a_session_counts_futures_from_1() -> None:
    log = Log()
    for start in (0.0, 10.0):
        log.submitted(start, 1)
        log.ran(1, "a", start + 1, start + 3)
    found = log.figures()
    assert found.outcomes == {"done": 2}
    assert [run.waited for run in found.attempts] == [1, 1]


def test_what_the_broker_no_longer_holds_is_said(known: Log) -> None:
    assert known.figures().complete
    assert "not in this report" not in page(known.figures(), "x", None)
    cut = known.figures(since=-10, held_since=-5)
    assert "not in this report" in page(cut, "x", None)
    assert "not in this report" in " ".join(summary(cut, None))


def test_cost_is_of_a_price_that_was_given_or_unknown(known: Log) -> None:
    found = known.figures()
    assert "Cost</dt><dd>unknown" in page(found, "x", None)
    assert any(line.startswith("cost unknown") for line in summary(found, None))
    assert "Cost</dt><dd>0.40" in page(found, "x", 36.0), "40 s are 1/90 of an hour"
    assert "Cost</dt><dd>0<" in page(found, "x", 0.0).replace("0.00<", "0<")


class Strict(HTMLParser):
    """Every element is closed in its turn; what is in the file beside text."""

    void = ("meta",)

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.shown = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.shown += data


def parsed(text: str) -> Strict:
    parser = Strict()
    parser.feed(text)
    parser.close()
    assert not parser.open
    return parser


@pytest.mark.parametrize("label", [
    "<img src=x onerror=alert(1)>", '"><script>alert(1)</script>', "</title></style>&amp;", "a\nb\r\n\tc",
    "\u202eevil\x00\x1b[31m", "x" * 10_000_000, "",
])  # fmt: skip
def test_label_of_any_kind_is_text_and_cut(label: str) -> None:
    log = Log(session=3)
    log.submitted(0, 1, label=label)
    log.ran(1, "a", 0, 10, label=label)
    log.add(11, "lost", 2, label=label, worker=label or "a", reason=label or "?")
    text = page(log.figures(), label, None)
    seen = parsed(text)
    assert len(text) < 30_000
    assert not seen.tags & {"img", "script", "b", "a", "link", "iframe"}
    assert not [name for name, _ in seen.attributes if name.startswith("on") or name in ("src", "href")]
    assert not set("\u202e\x00\x1b") & set(text)
    first = " ".join(label[:20].split())
    assert html.escape("".join(c for c in first if c.isprintable())[:4]) in text


def test_file_needs_nothing_else_and_serves_a_screen_reader(known: Log) -> None:
    text = page(known.figures(), "A run", 1.0)
    seen = parsed(text)
    assert "//" not in text.replace("<!DOCTYPE", ""), "no other host"
    assert "url(" not in text
    assert "script" not in seen.tags
    assert "default-src 'none'" in text
    assert text.count("<svg ") == text.count('<svg role="img" aria-label="')
    assert text.count("<table>") == text.count("<caption>")
    assert text.count('class="wide"') == text.count('class="wide" tabindex="0" role="region" aria-label="')
    assert text.count("<section ") == text.count("<section aria-label")
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
    assert "fit-1: done, 10 s, begun after 0 s" in text, "a bar's own words"


def many(tasks: int, workers: int, *, alternating: bool) -> Log:
    log = Log()
    free = [2.0 + worker / 100 for worker in range(workers)]
    for task in range(tasks):
        worker = task % workers
        begin, end = free[worker], free[worker] + 1 + task * 7919 % 100 / 100
        free[worker] = end + 0.01
        log.submitted(task / tasks, task, label=f"fit-{task}")
        if alternating and task // workers % 2:
            log.add(begin, "started", task, worker=f"w{worker}")
            log.add(end, "lost", task, worker=f"w{worker}", reason="out of memory")
            log.add(end, "ended", task, outcome="lost", bytes=10)
        else:
            log.ran(task, f"w{worker}", begin, end, label=f"fit-{task}")
    return log


def reported(log: Log) -> tuple[Figures, str, int]:
    """The figures, the page, and how many calls of functions both took: a measure that no busy machine changes."""
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        found = log.figures(now=1e6)
        text = page(found, "many", None)
    finally:
        sys.setprofile(before)
    return found, text, calls


@pytest.mark.parametrize("workers", [1, 40, 300])
@pytest.mark.parametrize("alternating", [False, True])
def test_ten_thousand_futures_make_a_small_file_soon(workers: int, *, alternating: bool) -> None:
    _, _, half = reported(many(5000, workers, alternating=alternating))
    found, text, calls = reported(many(10_000, workers, alternating=alternating))
    assert calls < 2.5 * half, "twice the futures take about twice the work"
    assert sum(found.outcomes.values()) == 10_000
    assert text.count("<rect ") <= MAX_BARS
    assert len(text) < 700_000
    assert "At most 3,000 bars are drawn" in text
    drawn = stream(found)
    assert drawn.bars >= 40, "what happened when is still seen"
    assert drawn.lanes_left_out == max(0, workers - 150)


def test_few_futures_have_a_bar_each_within_the_drawing(known: Log) -> None:
    drawn = stream(known.figures())
    assert (drawn.bars, drawn.merged_within) == (4, 0)
    rects = [dict(part.split("=", 1) for part in rect.split('" ') if "=" in part)
             for rect in (piece.split(">")[0] for piece in drawn.svg.split("<rect ")[1:])]  # fmt: skip
    spans = [(float(rect["x"].strip('"')), float(rect["width"].strip('"'))) for rect in rects]
    assert spans == [(0, 400), (400, 400), (200, 400), (600, 400)]


def test_numbers_are_for_people() -> None:
    assert [duration(s) for s in (0, 0.0421, 1.5, 59.6, 125, 3700, 7300, 90_000)] == [
        "0 s", "42 ms", "1.5 s", "60 s", "2 min 5 s", "61 min 40 s", "2 h 2 min", "25 h",
    ]  # fmt: skip
    assert [size(n) for n in (0, 1023, 1536, 5 << 30)] == ["0 B", "1023 B", "1.5 KiB", "5.0 GiB"]
    assert [group_of(name) for name in ("fit-17", "future_lapply-3", "17", "a 2 b", "")] == [
        "fit", "future_lapply", "17", "a 2 b", "",
    ]  # fmt: skip


def test_events_of_an_hour_are_held_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [T0]
    monkeypatch.setattr(reports_module, "time", SimpleNamespace(time=lambda: clock[0]))
    reports = Reports()
    task = cast(Task, SimpleNamespace(plan=SimpleNamespace(pid=1, run=""), number=1, label="", attempt=1))
    assert reports.held_since == T0
    reports.note("submitted", task)
    assert reports.held_since == T0
    clock[0] += 3700
    reports.note("ended", task)
    assert reports.held_since == T0 + 3700, "the first event has gone"
    for _ in range(reports_module.EVENTS):
        clock[0] += 0.01
        reports.note("ended", task)
    assert len(reports.events) == reports_module.EVENTS == 40_000
    assert reports.held_since == pytest.approx(T0 + 3700.01)
