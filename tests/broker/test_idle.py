"""Unused workers are scaled to 0, and so are those of an expired release."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image.broker import idle

from . import jumping
from .conftest import Bed, restarted, wait_for
from .kubernetes_api import Api, environ, pod


def test_waiting_session_counts_as_active(scaled: Bed, api: Api, tmp_path: Path) -> None:
    api.replicas = 2
    (tmp_path / "config" / "idleMinutes").write_text("0.02")
    with pytest.raises(AssertionError):
        wait_for(lambda: scaled.ask("status") and "scaling to 0" in scaled.broker.log(), 3)
    wait_for(lambda: "scaling to 0" in scaled.broker.log())


def test_unused_workers_are_scaled_to_0_after_idle_minutes(scaled: Bed, api: Api, tmp_path: Path) -> None:
    scaled.worker("r-worker-a")
    api.pods = [pod("a")]
    (tmp_path / "config" / "idleMinutes").write_text("0.02")
    with scaled.attach() as session:
        with pytest.raises(AssertionError):
            wait_for(lambda: "scaling to 0" in scaled.broker.log(), 3)
        assert int(session.call("pid")) > 0, "a session that holds a worker keeps it"
    wait_for(lambda: "no session has used a worker for 0.02 minutes: scaling to 0" in scaled.broker.log())
    api.pods = [pod("a", ready=False)]
    wait_for(lambda: api.replicas == 0)


def test_idle_count_resumes_after_a_restart_of_the_broker(scaled: Bed, api: Api, tmp_path: Path) -> None:
    (tmp_path / "config" / "idleMinutes").write_text("60")
    scaled.worker("r-worker-a")
    api.pods = [pod("a", ready=False)]
    time.sleep(4)
    scaled.broker.end()
    scaled.broker.wait()
    scaled.start_broker(**environ(api, tmp_path), FUTURE_KUBERNETES_IDLE_CHECK_SECONDS="0.1")
    found = wait_for(lambda: re.search(r"the workers were last used (\d+) s ago", scaled.broker.log()))
    assert int(found[1]) >= 4, "the count began anew"
    (tmp_path / "config" / "idleMinutes").write_text("0.07")
    wait_for(lambda: "scaling to 0 (idleMinutes)" in scaled.broker.log())


@pytest.mark.parametrize(("jump", "minutes", "goes"), [(90_000, "60", False), (-90_000, "0.02", True)])
def test_idle_count_goes_on_when_the_clock_jumps(
    bed: Bed, api: Api, tmp_path: Path, jump: int, minutes: str, goes: bool
) -> None:
    clock = tmp_path / "clock"
    restarted(bed, api, tmp_path, FUTURE_KUBERNETES_IDLE_CHECK_SECONDS="0.1", TEST_FIRST=jumping.first(clock))
    bed.worker("r-worker-a")
    api.pods = [pod("a", ready=False)]
    clock.write_text(str(jump))
    (tmp_path / "config" / "idleMinutes").write_text(minutes)
    if goes:
        wait_for(lambda: "scaling to 0" in bed.broker.log())
    else:
        with pytest.raises(AssertionError):
            wait_for(lambda: "scaling to 0" in bed.broker.log(), 2)


def test_session_before_a_restart_counts_as_use(scaled: Bed, api: Api, tmp_path: Path) -> None:
    scaled.worker("r-worker-a")
    time.sleep(4)
    session = scaled.attach()
    scaled.broker.end()
    scaled.broker.wait()
    session.socket.close()
    (tmp_path / "config" / "idleMinutes").write_text("60")
    scaled.start_broker(**environ(api, tmp_path), FUTURE_KUBERNETES_IDLE_CHECK_SECONDS="0.1")
    found = wait_for(lambda: re.search(r"the workers were last used (\d+) s ago", scaled.broker.log()))
    assert int(found[1]) <= 3


def test_expired_release_is_scaled_to_0_and_not_up_again(scaled: Bed, api: Api, tmp_path: Path) -> None:
    api.created = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    (tmp_path / "config" / "ttlHours").write_text("1")
    scaled.worker("r-worker-a")
    api.pods = [pod("a", ready=False)]
    assert scaled.ask("scale 3") == "ok 3", "an hour is not over"
    with scaled.attach():
        (tmp_path / "config" / "ttlHours").write_text("0.000001")
        with pytest.raises(AssertionError):
            wait_for(lambda: "scaling to 0" in scaled.broker.log(), 1.5)
    wait_for(lambda: api.replicas == 0)
    assert "the stack's 1e-06 hours are over: scaling to 0 (ttlHours)" in scaled.broker.log()
    assert scaled.ask("scale 3").startswith("error refused this stack's time is over")
    assert scaled.ask("scale 0") == "ok 0"


@given(st.floats(0, 1e9), st.floats(0, 1e9), st.floats(0, 1e5))
def test_idle_minutes_of_0_never_scale_down(now: float, last: float, minutes: float) -> None:
    assert idle.due(now, last, minutes) == (minutes > 0 and now - last >= minutes * 60)
    assert not idle.due(now, last, 0)
    assert not idle.due(last, last, max(minutes, 0.001))
