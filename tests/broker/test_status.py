"""The broker explains how the workers stand, from what the Kubernetes API reports."""

from __future__ import annotations

import asyncio
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image.broker import diagnosis, kubernetes, restart_notice, status
from image.broker.kubernetes import KubeError
from image.broker.memory import Memory

from .conftest import Bed, restarted, wait_for
from .kubernetes_api import Api, pod, table


def test_forbidden_request_names_the_role(scaled: Bed, api: Api) -> None:
    api.status = 403
    answer = scaled.ask("scale 3")
    assert answer.startswith("error permission ")
    assert "Its Role is r-scheduler: deploy the release again" in answer


def test_unreachable_api_is_reported_at_once(scaled: Bed, api: Api) -> None:
    api.shutdown()
    api.server_close()
    assert scaled.ask("status").startswith("error unreachable ")


def test_scaling_outside_of_a_cluster_is_refused(bed: Bed) -> None:
    assert bed.ask("scale 3").startswith("error outside ")


def test_api_with_a_foreign_certificate_is_refused(scaled: Bed, tmp_path: Path) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ed25519", "-nodes", "-subj", "/CN=evil", "-days", "2",
         "-keyout", "/dev/null", "-out", tmp_path / "account" / "ca.crt"], check=True, capture_output=True,
    )  # fmt: skip
    assert "CERTIFICATE_VERIFY_FAILED" in scaled.ask("status")


def test_status_counts_workers_and_names_the_cause(scaled: Bed, api: Api) -> None:
    api.replicas = 5
    api.pods = [pod("a"), pod("b", ready=False), pod("c", ready=False, unscheduled="0/3 nodes are available")]
    api.events = [{"reason": "TriggeredScaleUp", "involvedObject": {"name": "r-worker-c"}, "message": "2->3"}]
    scaled.worker("r-worker-a")
    assert scaled.ask("status") == (
        "ok 5 1 1 3\t1 starting, 1 waiting for a node (autoscaler adding nodes), 2 to be created\t\t0"
    )


def test_worker_that_is_connected_is_no_longer_starting(scaled: Bed, api: Api) -> None:
    api.replicas = 2
    api.pods = [pod("a", ready=False), pod("b", ready=False)]
    scaled.worker("r-worker-a")
    assert scaled.ask("status") == "ok 2 1 1 0\t1 starting\t\t0"


def test_status_names_workers_of_another_protocol_version(scaled: Bed, api: Api) -> None:
    api.pods = [pod("a", ready=False), pod("b", ready=False)]
    scaled.start_worker("r-worker-a", TEST_PROTOCOL="0")
    said = wait_for(lambda: next((text for text in [scaled.ask("status")] if "refused" in text), ""))
    problem, seconds = said.split("\t")[2:]
    assert problem.startswith("1 workers are refused: the worker states protocol version 0")
    assert float(seconds) >= 30, "a rolling update may be about to replace it"


def test_outcome_of_a_killed_container_comes_from_its_pod(scaled: Bed, api: Api) -> None:
    process = scaled.worker("r-worker-a")
    api.pods = [pod("a")]
    with scaled.attach() as session:
        process.end()
        killed = {
            "reason": "OOMKilled",
            "exitCode": 137,
            "finishedAt": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        api.pods[0]["spec"] = {"containers": [{"resources": {"limits": {"memory": "512Mi"}}}]}
        api.pods[0]["status"]["containerStatuses"] = [{"state": {"running": {}}, "lastState": {"terminated": killed}}]
        assert session.ended(5)
        said = scaled.ask(f"outcome {session.lease}")
    assert said == "ok its container was killed for want of memory (out of memory, limit 512Mi)"


def test_memory_is_named_though_kubernetes_shows_it_seconds_late(scaled: Bed, api: Api) -> None:
    process = scaled.worker("r-worker-a")
    api.pods = [pod("a")]
    with scaled.plan(retries=0) as plan:
        number = plan.submit("sleep 60")
        wait_for(lambda: "busy" in scaled.ask("workers"))
        process.end()
        time.sleep(4)
        ended = {"reason": "OOMKilled", "exitCode": 137, "finishedAt": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}
        api.pods[0]["status"]["containerStatuses"] = [{"state": {"running": {}}, "lastState": {"terminated": ended}}]
        lost = plan.result(number, "lost")
    assert "out of memory" in str(lost)


def test_next_session_reads_that_the_scheduler_ran_out_of_memory(bed: Bed, api: Api, tmp_path: Path) -> None:
    api.tables = True
    own = {**pod("scheduler"), "spec": {"containers": [{"resources": {"limits": {"memory": "2Gi"}}}]}}
    api.pods = [own]
    notice = bed.folder / "restart-notice"
    ended = {"reason": "OOMKilled", "exitCode": 137, "finishedAt": "2026-01-02T03:04:05Z"}
    own["status"]["containerStatuses"] = [{"state": {"running": {}}, "lastState": {"terminated": ended}}]
    (tmp_path / "cgroup").mkdir()
    (tmp_path / "cgroup/memory.max").write_text(str(2 << 30))
    restarted(bed, api, tmp_path, HOSTNAME="r-worker-scheduler")
    said = wait_for(lambda: notice.exists() and notice.read_text())
    assert "ran out of memory at 2026-01-02T03:04:05Z (limit 2Gi)" in said
    assert "pulumi config set schedulerMemoryGiB 4" in said
    notebooks = bed.folder / "restart-notice.notebook"
    assert wait_for(lambda: notebooks.exists() and notebooks.read_text()) == said, "it is written second"
    assert said.strip() in bed.broker.log()
    notice.unlink()  # by the session that has printed it
    restarted(bed, api, tmp_path, HOSTNAME="r-worker-scheduler")
    time.sleep(1)
    assert not notice.exists(), "said once, though the broker was restarted"
    (tmp_path / "restart-notice.told").unlink()
    restarted(bed, api, tmp_path, HOSTNAME="r-worker-scheduler")
    wait_for(notice.exists)
    own["status"]["containerStatuses"] = [{"state": {"running": {}}, "lastState": {}}]
    restarted(bed, api, tmp_path, HOSTNAME="r-worker-scheduler")
    wait_for(lambda: not notice.exists())


def test_restart_notice_waits_until_the_api_shows_new_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {
        **pod("scheduler"),
        "spec": {"containers": [{"name": "scheduler", "resources": {"limits": {"memory": "2Gi"}}}]},
    }
    ended = {"reason": "OOMKilled", "exitCode": 137, "finishedAt": "2026-01-02T03:04:05Z"}
    own["status"]["containerStatuses"] = [
        {
            "name": "scheduler",
            "state": {"running": {"startedAt": "2026-01-02T03:04:06Z"}},
            "lastState": {"terminated": ended},
        }
    ]
    earlier = {"name": "scheduler", "state": {"running": {"startedAt": "2026-01-02T03:00:00Z"}}, "lastState": {}}
    late = {**own, "status": {"conditions": [], "containerStatuses": [earlier]}}
    answers: list[Any] = [KubeError("unreachable", "timed out"), late, own]

    class Slow:
        def __init__(self, _environ: object) -> None: ...

        def pod(self, _name: str) -> dict[str, Any]:
            answer = answers.pop(0)
            if isinstance(answer, KubeError):
                raise answer
            return dict(answer)

    monkeypatch.setattr(restart_notice, "KubernetesApi", Slow)
    monkeypatch.setattr(restart_notice, "_WAITS", (0.0, 0.0, 0.0))
    monkeypatch.setattr(restart_notice, "_container_started", lambda: diagnosis.seconds_of("2026-01-02T03:04:07Z"))
    asyncio.run(restart_notice.write_notice({}, tmp_path, Memory(tmp_path, {})))
    assert "ran out of memory at 2026-01-02T03:04:05Z (limit 2Gi)" in (tmp_path / "restart-notice").read_text()


def test_end_of_an_earlier_container_is_no_outcome() -> None:
    old = {"state": {}, "lastState": {"terminated": {"exitCode": 1, "finishedAt": "1970-01-01T00:01:00Z"}}}
    item = pod("a")
    item["status"]["containerStatuses"] = [old]
    assert diagnosis.how_ended(item, 100.0) == ""
    assert diagnosis.how_ended(item, 50.0) == "its container ended with exit status 1"
    item["metadata"]["deletionTimestamp"] = "now"
    assert diagnosis.how_ended(item, 100.0) == "its pod was deleted"
    item["status"] |= {"phase": "Failed", "reason": "Evicted", "message": "The node was low on memory."}
    assert diagnosis.how_ended(item, 100.0) == "its pod was ended: Evicted The node was low on memory."


def test_image_that_cannot_be_pulled_is_reported_with_fix() -> None:
    found = status.summarise(1, [pod("a", ready=False, waiting="ImagePullBackOff")], [])
    assert found.problem.startswith("pod r-worker-a: ImagePullBackOff: said (check the image's name")


def test_quota_that_refuses_pods_is_a_problem() -> None:
    events = [
        {"reason": "FailedCreate", "involvedObject": {"name": "r-worker-1"}, "message": "exceeded quota: team"},
    ]
    assert status.summarise(3, [pod("a")], events).problem == "2 pods cannot be created: exceeded quota: team"
    assert status.summarise(1, [pod("a")], events).problem == "", "what was refused before is no problem now"


def test_missing_node_is_a_problem_unless_the_autoscaler_adds_one() -> None:
    pods = [pod("a", ready=False, unscheduled="0/1 nodes are available: 1 Insufficient cpu.")]
    assert status.summarise(1, pods, []).problem == (
        "no node fits 1 workers: 0/1 nodes are available: 1 Insufficient cpu."
    )
    adding = [{"reason": "TriggeredScaleUp", "involvedObject": {"name": "r-worker-a"}, "lastTimestamp": "1"}]
    assert status.summarise(1, pods, adding).problem == ""
    assert status.summarise(1, pods, []).text == (
        "1 waiting for a node (none fits yet: 0/1 nodes are available: 1 Insufficient cpu)"
    )


def test_failed_scale_up_is_a_problem_with_its_reason() -> None:
    pods = [pod("a", ready=False, unscheduled="0/1 nodes are available: 1 Insufficient cpu.")]
    about = {"involvedObject": {"name": "r-worker-a"}}
    failed = {**about, "reason": "FailedScaleUp", "lastTimestamp": "2", "message": "out of resources"}
    adding = {**about, "reason": "TriggeredScaleUp", "lastTimestamp": "1"}
    refused = status.summarise(1, pods, [failed, adding])
    assert "cannot add a node for them either: out of resources" in refused.problem
    assert refused.patience < status.summarise(1, pods, []).patience, "the autoscaler has given its answer"
    again = {**adding, "lastTimestamp": "3"}
    assert status.summarise(1, pods, [adding, failed, again]).problem == ""


def test_table_of_pods_gives_the_same_status_as_complete_pods(scaled: Bed, api: Api) -> None:
    api.replicas = 7
    leaving = pod("d")
    leaving["metadata"]["deletionTimestamp"] = "now"
    api.pods = [pod("a"), pod("b", ready=False), pod("c", ready=False, unscheduled="0/3 nodes: too few."), leaving]
    for more in ([], [pod("e", ready=False, waiting="ImagePullBackOff")]):
        api.pods += more
        answers = []
        for api.tables in (False, True):
            answers.append(scaled.ask("status"))
        assert answers[0] == answers[1]
    assert "none fits yet: 0/3 nodes: too few" in answers[1]
    assert "pod r-worker-e: ImagePullBackOff: said" in answers[1]


def test_pod_that_is_not_scheduled_yet_is_starting() -> None:
    found = kubernetes.from_table(table([pod("a", ready=False, unscheduled="later")]))
    assert status.summarise(1, found, []).text == "1 starting"


@given(st.lists(st.sampled_from(["ready", "starting", "unscheduled", "leaving"])), st.integers(0, 30))
def test_every_wanted_worker_is_counted_once(kinds: list[str], wanted: int) -> None:
    pods = [
        pod(str(i), ready=kind == "ready", unscheduled="no node" if kind == "unscheduled" else "")
        for i, kind in enumerate(kinds)
    ]
    for kind, item in zip(kinds, pods, strict=True):
        if kind == "leaving":
            item["metadata"]["deletionTimestamp"] = "now"
    found = status.summarise(wanted, pods, [])
    present = len([kind for kind in kinds if kind != "leaving"])
    assert found.running + found.starting + found.waiting == max(wanted, present)
