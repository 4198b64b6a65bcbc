"""Outside of ``workHours`` workers are scaled to 0, and none starts until the hours begin."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image.broker.hours import DAYS, WorkHours

from .conftest import Bed, wait_for
from .kubernetes_api import Api, pod

WEEK = "Mon-Fri 08:00-18:00 Europe/Berlin"


def closed(text: str, moment: str) -> str | None:
    """Time at which the hours begin, for a moment in UTC."""
    opens = WorkHours.parse(text).closed_until(datetime.fromisoformat(f"{moment}+00:00").timestamp())
    return opens.isoformat(timespec="minutes") if opens else None


@pytest.mark.parametrize(
    ("text", "moment", "opens"),
    [
        (WEEK, "2026-11-30T06:59:59", "2026-11-30T08:00+01:00"),  # a Monday, in winter
        (WEEK, "2026-11-30T07:00:00", None),
        (WEEK, "2026-11-30T16:59:59", None),
        (WEEK, "2026-11-30T17:00:00", "2026-12-01T08:00+01:00"),
        (WEEK, "2026-12-04T17:00:00", "2026-12-07T08:00+01:00"),  # a Friday
        (WEEK, "2026-07-06T06:00:00", None),  # summer time
        (WEEK, "2026-03-28T12:00:00", "2026-03-30T08:00+02:00"),  # it begins that Sunday
        ("Sat-Sun 00:00-12:00 UTC", "2026-12-06T11:59:00", None),
        ("Sat-Sun 00:00-12:00 UTC", "2026-12-06T12:00:00", "2026-12-12T00:00+00:00"),
        ("Fri-Mon 09:00-10:00 UTC", "2026-12-06T09:30:00", None),  # over the end of the week
        ("Fri-Mon 09:00-10:00 UTC", "2026-12-08T09:30:00", "2026-12-11T09:00+00:00"),
        ("Sun 22:00-06:00 UTC", "2026-12-07T05:59:00", None),  # the night to Monday
        ("Sun 22:00-06:00 UTC", "2026-12-07T06:00:00", "2026-12-13T22:00+00:00"),
        ("Mon 08:00-09:00 America/New_York", "2026-11-30T13:30:00", None),
    ],
)
def test_hours_are_those_of_their_time_zone(text: str, moment: str, opens: str | None) -> None:
    assert closed(text, moment) == opens


@pytest.mark.parametrize(
    "text",
    ["", "Mon-Fri", "mon 08:00-18:00 UTC", "Mon 8:00-18:00 UTC", "Mon 08:00-24:00 UTC", "Mon 08:00-09:00 Mars"],
)
def test_other_texts_are_no_hours(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no days, hours and time zone|there is no time zone"):
        WorkHours.parse(text)


@given(st.integers(0, 2**31), st.sampled_from(DAYS), st.sampled_from(DAYS), st.integers(0, 23), st.integers(0, 23))
def test_begin_of_the_hours_is_ahead_and_within_them(now: int, first: str, last: str, start: int, end: int) -> None:
    hours = WorkHours.parse(f"{first}-{last} {start:02}:00-{end:02}:00 Europe/Berlin")
    opens = hours.closed_until(now)
    if opens:
        assert 0 < opens.timestamp() - now <= 8 * 86400
        assert hours.closed_until(opens.timestamp() + 1) is None


def night() -> str:
    """Hours of another day than today and its neighbours."""
    return f"{DAYS[(datetime.now(UTC) + timedelta(days=3)).weekday()]} 08:00-09:00 UTC"


def test_workers_end_outside_of_hours_once_no_session_uses_them(scaled: Bed, api: Api, tmp_path: Path) -> None:
    scaled.worker("r-worker-a")
    api.pods = [pod("a", ready=False)]
    hours = tmp_path / "config" / "workHours"
    hours.write_text("Mon-Sun 00:00-00:00 UTC\n")
    assert scaled.ask("scale 3") == "ok 3", "a whole day"
    with scaled.attach():
        hours.write_text(night())
        with pytest.raises(AssertionError):
            wait_for(lambda: "scaling to 0" in scaled.broker.log(), 1.5)
    wait_for(lambda: api.replicas == 0)
    assert "outside of workHours until" in scaled.broker.log()


def test_session_learns_until_when_no_worker_comes(scaled: Bed, api: Api, tmp_path: Path) -> None:
    hours = tmp_path / "config" / "workHours"
    hours.write_text(night())
    api.replicas = 0
    until = datetime.now(UTC) + timedelta(days=3)
    refusal = scaled.ask("scale 3")
    assert refusal.startswith(f"error refused no worker starts before {until:%A %Y-%m-%d} 08:00 UTC")
    assert "pulumi config set workHours" in refusal
    numbers, _text, problem, patience = scaled.ask("status").split("\t")
    assert numbers.startswith("ok 0"), numbers
    assert problem.startswith("no worker starts before")
    assert float(patience) == 0, "R need not wait for what takes days"
    assert scaled.ask("scale 0") == "ok 0"
    hours.write_text("Mon-Sun 00:00-00:00 UTC")
    assert scaled.ask("scale 3") == "ok 3", "read each time"


def test_hours_that_cannot_be_read_stop_nobody(scaled: Bed, tmp_path: Path) -> None:
    (tmp_path / "config" / "workHours").write_text("whenever")
    assert scaled.ask("scale 2") == "ok 2"
    assert scaled.ask("scale 3") == "ok 3"
    told = "workHours are not kept: 'whenever' is no days, hours and time zone"
    wait_for(lambda: scaled.broker.log().count(told) == 1)
