"""Room for further workers: the number of placeholders follows workers, hours and the release's age."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image.broker.warm import placeholders

from .conftest import Bed, wait_for
from .kubernetes_api import WARM, Api

ALWAYS = "Mon-Sun 00:00-00:00 UTC"


def hours_that_exclude_now() -> str:
    """An hour of the day that is hours away."""
    begin = (time.gmtime().tm_hour + 6) % 24
    return f"Mon-Sun {begin:02d}:00-{(begin + 1) % 24:02d}:00 UTC"


def test_placeholders_follow_the_workers_up_to_the_maximum(scaled: Bed, api: Api, tmp_path: Path) -> None:
    (tmp_path / "config" / "warmWorkers").write_text("4\n")
    wait_for(lambda: api.placeholders == 4)
    checked = api.read.count(WARM)
    wait_for(lambda: api.read.count(WARM) >= checked + 3)  # checks that change nothing
    assert "keeps room for 4 further workers (warmWorkers)" in scaled.broker.log()
    api.replicas = 9  # of 10
    wait_for(lambda: api.placeholders == 1)
    api.replicas = 10
    wait_for(lambda: api.placeholders == 0)
    api.replicas = 0
    wait_for(lambda: api.placeholders == 4)
    assert api.placeholders_asked == [4, 1, 0, 4], "each number once"


@pytest.mark.parametrize("name", ["workHours", "ttlHours"])
def test_no_room_is_kept_when_no_worker_may_start(scaled: Bed, api: Api, tmp_path: Path, name: str) -> None:
    (tmp_path / "config" / "warmWorkers").write_text("4\n")
    wait_for(lambda: api.placeholders == 4)
    closed = {"workHours": hours_that_exclude_now(), "ttlHours": "0.000001"}[name]
    (tmp_path / "config" / name).write_text(closed)
    wait_for(lambda: api.placeholders == 0)
    (tmp_path / "config" / name).write_text({"workHours": ALWAYS, "ttlHours": "0"}[name])
    wait_for(lambda: api.placeholders == 4)


def test_idle_workers_leave_the_room(scaled: Bed, api: Api, tmp_path: Path) -> None:
    (tmp_path / "config" / "warmWorkers").write_text("2\n")
    (tmp_path / "config" / "idleMinutes").write_text("0.02")
    wait_for(lambda: api.replicas == 0)
    wait_for(lambda: api.placeholders == 2)
    assert 0 not in api.placeholders_asked


def test_without_the_setting_kubernetes_is_not_asked(scaled: Bed, api: Api, tmp_path: Path) -> None:
    (tmp_path / "config" / "idleMinutes").write_text("0.02")
    wait_for(lambda: "scaling to 0" in scaled.broker.log())
    assert WARM not in api.read
    assert api.placeholders_asked == []


def test_refusal_is_logged_once_and_tried_again(scaled: Bed, api: Api, tmp_path: Path) -> None:
    api.status = 403
    (tmp_path / "config" / "warmWorkers").write_text("4\n")
    wait_for(lambda: "could not set the number of placeholders" in scaled.broker.log())
    time.sleep(1)
    assert scaled.broker.log().count("could not set the number of placeholders") == 1
    api.status = 200
    wait_for(lambda: api.placeholders == 4)


@given(st.integers(0, 5000), st.integers(0, 5000), st.integers(0, 5000), st.booleans())
def test_room_and_workers_never_exceed_the_maximum(warm: int, workers: int, maximum: int, closed: bool) -> None:
    found = placeholders(warm, workers, maximum, closed=closed)
    assert 0 <= found <= warm
    assert found == 0 or found + workers <= maximum
    assert not (closed and found)
    assert closed or found == warm or found + workers == maximum or workers >= maximum
