"""The broker's metrics, read by Prometheus' own parser."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest

from image.broker.loss_causes import describe_end, kind_of
from image.broker.metrics import Metric, Volumes, by, volumes_of

from .conftest import Bed, restarted, wait_for
from .kubernetes_api import Api, pod
from .metrics import families, get, values


def test_metrics_and_readiness_are_answered(bed: Bed) -> None:
    for name in ("w1", "w2", "w3"):
        bed.worker(name)
    with bed.attach(), bed.plan() as plan:
        assert get(bed, "/readyz").startswith("HTTP/1.0 200")
        assert get(bed, "/nothing").startswith("HTTP/1.0 404")
        plan.run("sleep 0")
        plan.submit("sleep 600")
        plan.submit("sleep 600")
        wait_for(lambda: values(bed)["tasks_queued"] == 1)
        exported, found = families(bed), values(bed)
    assert all(family.documentation for family in exported)
    assert {name: found[name] for name in ("workers idle", "workers busy", "attached_total", "sessions")} == {
        "workers idle": 1, "workers busy": 2, "attached_total": 1, "sessions": 2,
    }  # fmt: skip
    assert {name: found[name] for name in ("tasks_queued", "tasks_running", "tasks_total submitted")} == {
        "tasks_queued": 1, "tasks_running": 1, "tasks_total submitted": 3,
    }  # fmt: skip


def test_metric_never_has_a_label_that_prometheus_gives_its_target(bed: Bed) -> None:
    """Prometheus would rename it to ``exported_pod``."""
    bed.worker("w1")
    with bed.plan() as plan:
        plan.submit("sleep 600")
        wait_for(lambda: "worker_memory_bytes w1" in values(bed))
        labels = {label for family in families(bed) for sample in family.samples for label in sample.labels}
    assert labels | {"volume"} == {"state", "cause", "outcome", "volume", "worker"}


def test_wanted_workers_that_do_not_come_are_counted_and_timed(bed: Bed) -> None:
    assert values(bed)["workers_wanted"] == 0
    with bed.plan(maximum=3) as plan:
        began = time.monotonic()
        plan.submit("sleep 0")
        found = wait_for(lambda: (now := values(bed))["waiting_seconds"] > 0.1 and now)
        assert (found["workers_wanted"], found["workers_joined_total"]) == (3, 0)
        assert found["waiting_seconds"] <= time.monotonic() - began
        bed.worker("w1")
        plan.result(1)
        found = values(bed)
        assert (found["waiting_seconds"], found["workers_joined_total"]) == (0, 1)


def test_attach_mode_waiting_for_workers_wants_them_within_the_maximum(scaled: Bed, api: Api, tmp_path: Path) -> None:
    (tmp_path / "config" / "maxWorkers").write_text("2")
    began = time.monotonic()
    with ExitStack() as sessions:
        for wanted in (1, 2, 2):
            session = sessions.enter_context(scaled.session())
            session.send("attach 1 60")
            assert session.line().startswith("wait")
            found = values(scaled)
            assert (found["workers_wanted"], found["workers_maximum"]) == (wanted, 2)
        assert found["waiting"] == 3
        assert 0 < found["waiting_seconds"] <= time.monotonic() - began


def test_worker_joins_once_and_its_seconds_continue_over_connections(bed: Bed) -> None:
    worker = bed.worker("w1")
    time.sleep(0.3)
    with bed.attach():
        pass
    wait_for(lambda: bed.state("w1") == "idle")
    before = values(bed)
    assert before["workers_joined_total"] == 1
    assert before["worker_seconds_total"] >= 0.3
    worker.end()
    wait_for(lambda: bed.state("w1") is None)
    first = values(bed)["worker_seconds_total"]
    time.sleep(0.2)
    assert values(bed)["worker_seconds_total"] == first >= before["worker_seconds_total"]


def test_losses_of_tasks_are_counted_by_cause(bed: Bed) -> None:
    bed.worker("w1")
    assert {name: value for name, value in values(bed).items() if name.startswith("worker_losses")} == {
        f"worker_losses_total {cause}": 0 for cause in ("memory", "eviction", "deletion", "network", "crash", "unknown")
    }
    with bed.plan(retries=1) as plan:
        plan.result(plan.submit("die"), "lost")
    found = values(bed)
    assert (found["worker_losses_total crash"], found["lost_total"]) == (2, 0)


def test_loss_in_attach_mode_is_counted_when_its_cause_appears(scaled: Bed, api: Api) -> None:
    process = scaled.worker("r-worker-a")
    ended = {"reason": "OOMKilled", "exitCode": 137, "finishedAt": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}
    api.pods = [pod("a")]
    with scaled.attach() as session:
        process.end()
        api.pods[0]["status"]["containerStatuses"] = [{"state": {"running": {}}, "lastState": {"terminated": ended}}]
        assert session.ended(5)
    found = wait_for(lambda: (found := values(scaled))["worker_losses_total memory"] and found)
    assert sum(value for name, value in found.items() if name.startswith("worker_losses")) == 1


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (describe_end(-9, oom=True, limit_mib=512), "memory"),
        ("its container was killed for want of memory (out of memory, limit 2Gi)", "memory"),
        ("its pod was ended: Evicted The node was low on resource: memory.", "eviction"),
        ("its pod was ended: Terminated Pod was terminated in response to imminent node shutdown.", "deletion"),
        ("its pod was deleted", "deletion"),
        ("its pod was draining, and its grace period was over", "deletion"),
        ("its network fell silent: its node may be gone", "network"),
        (describe_end(-11), "crash"),
        (describe_end(None), "crash"),
        ("its container ended with exit status 1", "crash"),
        ("its connection ended, and Kubernetes shows no reason", "unknown"),
        ("", "unknown"),
    ],
)
def test_the_text_of_a_loss_has_a_cause(text: str, cause: str) -> None:
    assert kind_of(text) == cause


def test_the_home_volume_has_the_size_that_df_shows(bed: Bed, api: Api, tmp_path: Path) -> None:
    restarted(bed, api, tmp_path, HOME=str(tmp_path))
    found, here = values(bed), os.statvfs(tmp_path)
    used = (here.f_blocks - here.f_bfree) * here.f_frsize
    assert found["volume_size_bytes home"] == pytest.approx(used + here.f_bavail * here.f_frsize, rel=0.01)
    assert found["volume_free_bytes home"] == pytest.approx(here.f_bavail * here.f_frsize, rel=0.05)
    restarted(bed, api, tmp_path, HOME=str(tmp_path / "none"))
    assert not any(name.startswith("volume") for name in values(bed))


def test_only_a_shared_volume_that_is_mounted_is_measured() -> None:
    def measured(*, mounted: bool) -> set[str]:
        volumes = volumes_of({"HOME": "/"}, mounted=lambda path: mounted and path == "/shared")
        volumes._statvfs = lambda _: os.statvfs("/")
        return set(asyncio.run(volumes.sizes()))

    assert measured(mounted=False) == {"home"}
    assert measured(mounted=True) == {"home", "shared"}


def test_volume_that_hangs_is_omitted_and_blocks_one_thread_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("image.broker.metrics._MEASURE_SECONDS", 0.1)
    free, asked = threading.Event(), []

    def statvfs(path: str) -> os.statvfs_result:
        asked.append(path)
        if path == "/shared":
            free.wait(20)
        return os.statvfs("/")

    async def scrapes() -> list[set[str]]:
        volumes = Volumes({"home": "/home", "shared": "/shared"}, statvfs)
        found = [set(await volumes.sizes()) for _ in range(3)]
        free.set()
        await asyncio.sleep(0.05)
        return [*found, set(await volumes.sizes())]

    assert asyncio.run(scrapes()) == [{"home"}, {"home"}, {"home"}, {"home", "shared"}]
    assert asked.count("/shared") == 1


def test_the_value_of_a_label_is_escaped() -> None:
    text = "".join(Metric("x", "gauge", "Words.", by("name", {'a"b\\c\nd': 1})).lines())
    assert text.splitlines()[-1] == r'future_kubernetes_x{name="a\"b\\c\nd"} 1'
