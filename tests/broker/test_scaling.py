"""Workers are asked for, waited for and let go through the Kubernetes API; the API alone is a stand-in."""

from __future__ import annotations

import json
import re
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image.broker import diagnosis, idle, kubernetes, status

from .conftest import Bed, wait_for

SCALE = "/apis/apps/v1/namespaces/team/deployments/r-worker/scale"


def pod(name: str, *, ready: bool = True, waiting: str = "", unscheduled: str = "") -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": str(ready)}]
    if unscheduled:
        conditions.append({"type": "PodScheduled", "status": "False", "message": unscheduled})
    containers = [{"state": {"waiting": {"reason": waiting, "message": "said"}}}] if waiting else []
    return {
        "metadata": {"name": f"r-worker-{name}"},
        "status": {"conditions": conditions, "containerStatuses": containers},
    }


def row(item: dict[str, Any]) -> list[Any]:
    """The pod as the API server shows it in a table (printPod in kubernetes/pkg/printers/internalversion)."""
    status = item["status"]
    unscheduled = any(c["type"] == "PodScheduled" and c["status"] == "False" for c in status["conditions"])
    waiting = [c["state"]["waiting"]["reason"] for c in status["containerStatuses"]]
    shown = "Terminating" if "deletionTimestamp" in item["metadata"] else "Pending" if unscheduled else "Running"
    ready = "1/1" if diagnosis.is_ready(item) else "0/1"
    return [item["metadata"]["name"], ready, *(waiting or [shown]), 0, "<none>" if unscheduled else "node"]


def table(pods: list[dict[str, Any]]) -> dict[str, Any]:
    columns = [{"name": name} for name in ("Name", "Ready", "Status", "Restarts", "Node")]
    return {"kind": "Table", "columnDefinitions": columns, "rows": [{"cells": row(item)} for item in pods]}


class Api(ThreadingHTTPServer):
    """Serves one Deployment's scale, pods and events over TLS, and records what it is asked."""

    def __init__(self, certificate: Path, key: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.replicas = 2
        self.pods: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.status = 200
        self.tables = False
        self.created = "2026-01-01T00:00:00Z"
        self.asked: list[str] = []
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    server: Api
    known: ClassVar = {"pods", "events"}

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, body: object) -> None:
        assert self.headers["Authorization"] == "Bearer account-token"
        data = json.dumps({"message": "no"} if self.server.status != 200 else body).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        name = path.rsplit("/", 1)[1]
        if self.server.tables and name.startswith("r-worker-"):
            self._answer(next(item for item in self.server.pods if item["metadata"]["name"] == name))
        elif self.server.tables and "includeObject" in query:
            assert "as=Table" in self.headers["Accept"]
            self._answer(table(self.server.pods))
        elif self.server.tables and "spec.nodeName" in query:
            self._answer({"items": [item for item in self.server.pods if row(item)[-1] == "<none>"]})
        elif self.path == SCALE:
            self._answer(
                {
                    "metadata": {"creationTimestamp": self.server.created},
                    "spec": {"replicas": self.server.replicas} if self.server.replicas else {},
                }
            )
        else:
            self._answer({"items": getattr(self.server, name)})

    def do_PATCH(self) -> None:
        assert self.path == SCALE
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.status == 200:
            self.server.replicas = body["spec"]["replicas"]
            self.server.asked.append(str(self.server.replicas))
        self._answer({})


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    account = tmp_path / "account"
    account.mkdir()
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ed25519", "-nodes", "-subj", "/CN=127.0.0.1", "-days", "2",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", account / "key", "-out", account / "ca.crt"],
        check=True, capture_output=True,
    )  # fmt: skip
    (account / "token").write_text("account-token")
    server = Api(account / "ca.crt", account / "key")
    yield server
    server.shutdown()
    server.server_close()


def environ(api: Api, folder: Path) -> dict[str, str]:
    config = folder / "config"
    config.mkdir(exist_ok=True)
    (config / "maxWorkers").write_text("10\n")
    return {
        "KUBERNETES_SERVICE_HOST": "127.0.0.1",
        "KUBERNETES_SERVICE_PORT": str(api.server_address[1]),
        "FUTURE_KUBERNETES_RELEASE": "r",
        "FUTURE_KUBERNETES_NAMESPACE": "team",
        "FUTURE_KUBERNETES_ACCOUNT": str(folder / "account"),
        "FUTURE_KUBERNETES_CONFIG": str(config),
    }


def restarted(bed: Bed, api: Api, folder: Path, **settings: str) -> Bed:
    """With a broker that has an API to speak to."""
    bed.restart_broker(**environ(api, folder), **settings)
    return bed


@pytest.fixture
def scaled(bed: Bed, api: Api, tmp_path: Path) -> Bed:
    """One that looks every 0.1 s whether its workers are idle."""
    return restarted(bed, api, tmp_path, FUTURE_KUBERNETES_IDLE_CHECK_SECONDS="0.1")


@pytest.fixture
def impatient(bed: Bed, api: Api, tmp_path: Path) -> Bed:
    """One that waits 3 s where it otherwise waits 90 for what Kubernetes sees."""
    return restarted(bed, api, tmp_path, FUTURE_KUBERNETES_RETIRE_SECONDS="3")


def start(bed: Bed, api: Api, *names: str) -> None:
    """As many workers as are asked for, connected and seen ready."""
    for name in names:
        bed.worker(f"r-worker-{name}")
    api.replicas = len(names)
    api.pods = [pod(name) for name in names]


def state(bed: Bed, name: str) -> str:
    """The state that the worker's agent answers to a probe; a retiring one is in no table."""
    return bed.probe(f"r-worker-{name}")[1]


def test_workers_that_a_session_can_spare_are_taken_back_after_a_while_and_no_other(scaled: Bed, api: Api) -> None:
    start(scaled, api, "w1", "w2", "w3")
    kept, *spare = (scaled.attach(pid=7) for _ in range(3))
    with scaled.session() as plan:
        for session in spare:
            plan.send(f"release 0.3 {session.lease}")
        assert all(session.ended(5) for session in spare)
        plan.send("cancel-release")
        assert plan.line() == "ok 2"
        plan.send("cancel-release")
        assert plan.line() == "ok 0", "what was told once is not told again"
    assert int(kept.call("pid")) > 0
    wait_for(lambda: len(scaled.table()) == 1)
    api.pods = [pod("w1"), pod("w2", ready=False), pod("w3", ready=False)]
    wait_for(lambda: api.asked == ["1"])
    assert scaled.ask("outcome " + spare[0].lease) == "ok ", "that is no loss"


@pytest.mark.parametrize("how", ["cancel", "close"])
def test_workers_that_are_used_again_in_time_are_not_taken_back(scaled: Bed, api: Api, how: str) -> None:
    scaled.worker("r-worker-w1")
    session, plan = scaled.attach(pid=7), scaled.session()
    plan.send(f"release 0.5 {session.lease}")
    if how == "cancel":
        plan.send("cancel-release")
        assert plan.line() == "ok 0"
    else:
        plan.socket.close()
    assert not session.ended(1.5)
    session.socket.settimeout(10)
    assert int(session.call("pid")) > 0
    assert api.asked == []


def test_more_workers_are_asked_for_at_once(scaled: Bed, api: Api) -> None:
    assert scaled.ask("scale 7") == "ok 7"
    assert api.asked == ["7"]
    assert scaled.ask("scale 7") == "ok 7"
    assert api.asked == ["7"], "what is so already is not asked for again"


@pytest.mark.parametrize("number", ["11", "-1", "1000000"])
def test_more_than_the_maximum_is_refused_and_named(scaled: Bed, api: Api, number: str) -> None:
    assert scaled.ask(f"scale {number}") == (
        f"error above-maximum {number} workers were asked for; this release allows 0 to 10"
    )
    assert api.asked == []


def test_fewer_workers_lets_idle_ones_go_first_and_none_in_use(scaled: Bed, api: Api) -> None:
    start(scaled, api, "a", "b", "c")
    with scaled.attach() as session:
        assert scaled.ask("scale 1") == "ok 1"
        wait_for(lambda: len(scaled.table()) == 1)
        assert api.asked == [], "Kubernetes could still take the one in use"
        assert scaled.ask("status").startswith("ok 1 "), "who asks for two now is not to count on those that go"
        api.pods = [pod(name, ready=f"r-worker-{name}" == session.pod) for name in ("a", "b", "c")]
        wait_for(lambda: api.asked == ["1"])
        assert int(session.call("pid")) > 0
    for name in {"a", "b", "c"} - {session.pod.removeprefix("r-worker-")}:
        assert state(scaled, name) == "retiring"


def test_the_number_is_not_lowered_while_kubernetes_would_take_one_in_use(scaled: Bed, api: Api) -> None:
    start(scaled, api, "a", "b")
    with scaled.attach() as session:
        used, free = sorted(("a", "b"), key=lambda name: session.pod != f"r-worker-{name}")
        api.pods = [pod(used, ready=False), pod(free)]  # its node is out of breath, or its first probe is yet to come
        assert scaled.ask("scale 1") == "ok 1"
        wait_for(lambda: state(scaled, free) == "retiring")
        api.pods = [pod(used, ready=False), pod(free, ready=False)]
        with pytest.raises(AssertionError):
            wait_for(lambda: api.asked, 5)
        api.pods = [pod(used), pod(free, ready=False)]
        wait_for(lambda: api.asked == ["1"])
        assert int(session.call("pid")) > 0


def test_those_that_kubernetes_would_take_first_are_the_ones_let_go(scaled: Bed, api: Api) -> None:
    names = ("a", "b", "c")
    start(scaled, api, *names)
    api.pods = [pod(name, ready=name != "c") for name in names]
    assert scaled.ask("scale 2") == "ok 2"
    wait_for(lambda: [state(scaled, name) for name in names] == ["idle", "idle", "retiring"])
    wait_for(lambda: api.asked == ["2"])


def test_workers_that_stay_are_seen_ready_before_the_number_is_lowered(scaled: Bed, api: Api) -> None:
    names = ("a", "b", "c")
    start(scaled, api, *names)
    api.pods = [pod(name, ready=False) for name in names]  # they have only just come
    assert scaled.ask("scale 1") == "ok 1"
    wait_for(lambda: sorted(state(scaled, name) for name in names) == ["idle", "retiring", "retiring"])
    with pytest.raises(AssertionError):
        wait_for(lambda: api.asked, 5)
    api.pods = [pod(name, ready=state(scaled, name) == "idle") for name in names]
    wait_for(lambda: api.asked == ["1"])


def test_pods_on_their_way_out_are_not_counted(scaled: Bed, api: Api) -> None:
    start(scaled, api, "a", "b", "c")
    api.replicas = 2
    api.pods[0]["metadata"]["deletionTimestamp"] = "now"
    assert scaled.ask("scale 1") == "ok 1"
    wait_for(lambda: sorted(state(scaled, name) for name in "bc") == ["idle", "retiring"])
    api.pods[1:] = [pod(name, ready=state(scaled, name) == "idle") for name in "bc"]
    wait_for(lambda: api.asked == ["1"])


def test_those_let_go_are_called_back_at_once_when_they_are_wanted_again(scaled: Bed, api: Api) -> None:
    names = ("a", "b", "c")
    start(scaled, api, *names)

    def states() -> list[str]:
        return sorted(state(scaled, name) for name in names)

    assert scaled.ask("scale 1") == "ok 1"
    wait_for(lambda: states() == ["idle", "retiring", "retiring"])
    assert scaled.ask("scale 2") == "ok 2"
    wait_for(lambda: states() == ["idle", "idle", "retiring"])
    assert scaled.ask("scale 3") == "ok 3"
    wait_for(lambda: states() == ["idle", "idle", "idle"])
    assert {row["state"] for row in scaled.table().values()} == {"idle"}
    assert api.asked == [], "none had been taken yet"

    assert scaled.ask("scale 0") == "ok 0"
    wait_for(lambda: states() == ["retiring"] * 3)
    waiting = [scaled.session() for _ in names]
    for session in waiting:
        session.send("attach 1 20")
        assert session.line().startswith("wait")
    assert scaled.ask("scale 3") == "ok 3"
    for session in waiting:
        while not (answer := session.line()).startswith("ok"):
            assert answer.startswith("wait"), answer
        assert int(session.call("pid")) > 0


def test_those_that_kubernetes_has_yet_to_see_unready_are_called_back_first(scaled: Bed, api: Api) -> None:
    names = ("a", "b", "c")
    start(scaled, api, *names)
    assert scaled.ask("scale 1") == "ok 1"
    wait_for(lambda: sorted(state(scaled, name) for name in names) == ["idle", "retiring", "retiring"])
    seen, unseen = (name for name in names if state(scaled, name) == "retiring")
    api.pods = [pod(name, ready=name != seen) for name in names]
    assert scaled.ask("scale 2") == "ok 2"
    wait_for(lambda: state(scaled, unseen) == "idle")
    assert state(scaled, seen) == "retiring"
    wait_for(lambda: api.asked == ["2"])


def test_one_that_kubernetes_does_not_take_after_all_works_again(impatient: Bed, api: Api) -> None:
    start(impatient, api, "a", "b")
    api.pods = [pod("a"), pod("b", ready=False)]
    assert impatient.ask("scale 1") == "ok 1"
    wait_for(lambda: state(impatient, "b") == "retiring")
    wait_for(lambda: api.asked == ["1"])
    time.sleep(1)
    assert impatient.ask("scale 2") == "ok 2"
    wait_for(lambda: state(impatient, "b") == "idle")
    again = time.monotonic()
    assert impatient.ask("scale 1") == "ok 1"
    wait_for(lambda: state(impatient, "b") == "retiring")
    wait_for(lambda: state(impatient, "b") == "idle")
    assert time.monotonic() - again >= 3, "the first time that it was let go counts no more"
    assert len(impatient.table()) == 2


def test_a_pod_that_stays_ready_without_a_worker_costs_none_in_use_its_place(impatient: Bed, api: Api) -> None:
    start(impatient, api, "a", "b")
    api.replicas = 3
    with impatient.attach() as session:
        free = ({"r-worker-a", "r-worker-b"} - {session.pod}).pop().removeprefix("r-worker-")
        api.pods = [pod("a", ready=free != "a"), pod("b", ready=free != "b"), pod("lost")]
        assert impatient.ask("scale 0") == "ok 1"
        wait_for(lambda: api.asked == ["2"], 15)
    assert impatient.ask("scale 0") == "ok 0"
    wait_for(lambda: api.asked == ["2", "0"], 15)


def test_fewer_than_are_in_use_keeps_those_in_use(scaled: Bed, api: Api) -> None:
    scaled.worker("r-worker-a")
    api.pods = [pod("a")]
    with scaled.attach():
        assert scaled.ask("scale 0") == "ok 1"
        wait_for(lambda: api.asked == ["1"])


def test_a_role_that_is_missing_is_named(scaled: Bed, api: Api) -> None:
    api.status = 403
    answer = scaled.ask("scale 3")
    assert answer.startswith("error permission ")
    assert "Its Role is r-scheduler: deploy the release again" in answer


def test_an_api_that_cannot_be_reached_is_told_at_once(scaled: Bed, api: Api) -> None:
    api.shutdown()
    api.server_close()
    assert scaled.ask("status").startswith("error unreachable ")


def test_outside_a_cluster_scaling_says_so(bed: Bed) -> None:
    assert bed.ask("scale 3").startswith("error outside ")


def test_an_api_whose_certificate_is_not_the_clusters_is_refused(scaled: Bed, tmp_path: Path) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ed25519", "-nodes", "-subj", "/CN=evil", "-days", "2",
         "-keyout", "/dev/null", "-out", tmp_path / "account" / "ca.crt"], check=True, capture_output=True,
    )  # fmt: skip
    assert "CERTIFICATE_VERIFY_FAILED" in scaled.ask("status")


def test_the_status_counts_and_explains(scaled: Bed, api: Api) -> None:
    api.replicas = 5
    api.pods = [pod("a"), pod("b", ready=False), pod("c", ready=False, unscheduled="0/3 nodes are available")]
    api.events = [{"reason": "TriggeredScaleUp", "involvedObject": {"name": "r-worker-c"}, "message": "2->3"}]
    scaled.worker("r-worker-a")
    assert scaled.ask("status") == (
        "ok 5 1 1 3\t1 starting, 1 waiting for a node (autoscaler adding nodes), 2 to be created\t\t0"
    )


def test_the_status_names_workers_of_another_protocol_version(scaled: Bed, api: Api) -> None:
    api.pods = [pod("a", ready=False), pod("b", ready=False)]
    scaled.start_worker("r-worker-a", TEST_PROTOCOL="0")
    said = wait_for(lambda: next((text for text in [scaled.ask("status")] if "refused" in text), ""))
    problem, seconds = said.split("\t")[2:]
    assert problem.startswith("1 workers are refused: the worker states protocol version 0")
    assert float(seconds) >= 30, "a rolling update may be about to replace it"


def test_a_worker_that_ended_with_its_container_is_explained_by_its_pod(scaled: Bed, api: Api) -> None:
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


def test_a_scheduler_that_ran_out_of_memory_tells_the_next_session(bed: Bed, api: Api, tmp_path: Path) -> None:
    api.tables = True
    own = {**pod("scheduler"), "spec": {"containers": [{"resources": {"limits": {"memory": "2Gi"}}}]}}
    api.pods = [own]
    notice = bed.folder / "restart-notice"
    ended = {"reason": "OOMKilled", "exitCode": 137, "finishedAt": "2026-01-02T03:04:05Z"}
    own["status"]["containerStatuses"] = [{"state": {"running": {}}, "lastState": {"terminated": ended}}]
    restarted(bed, api, tmp_path, HOSTNAME="r-worker-scheduler")
    said = wait_for(lambda: notice.exists() and notice.read_text())
    assert "ran out of memory at 2026-01-02T03:04:05Z (limit 2Gi)" in said
    assert "raise 'schedulerMemoryGiB'" in said
    own["status"]["containerStatuses"] = [{"state": {"running": {}}, "lastState": {}}]
    restarted(bed, api, tmp_path, HOSTNAME="r-worker-scheduler")
    wait_for(lambda: not notice.exists())


def test_how_a_pod_ended_is_told_of_the_present_use_alone() -> None:
    old = {"state": {}, "lastState": {"terminated": {"exitCode": 1, "finishedAt": "1970-01-01T00:01:00Z"}}}
    item = pod("a")
    item["status"]["containerStatuses"] = [old]
    assert diagnosis.how_ended(item, 100.0) == ""
    assert diagnosis.how_ended(item, 50.0) == "its container ended with exit status 1"
    item["metadata"]["deletionTimestamp"] = "now"
    assert diagnosis.how_ended(item, 100.0) == "its pod was deleted"
    item["status"] |= {"phase": "Failed", "reason": "Evicted", "message": "The node was low on memory."}
    assert diagnosis.how_ended(item, 100.0) == "its pod was ended: Evicted The node was low on memory."


def test_an_image_that_cannot_be_pulled_is_a_problem_with_its_fix() -> None:
    found = status.summarise(1, [pod("a", ready=False, waiting="ImagePullBackOff")], [])
    assert found.problem.startswith("pod r-worker-a: ImagePullBackOff: said (check the image's name")


def test_a_quota_that_forbids_pods_is_a_problem() -> None:
    events = [
        {"reason": "FailedCreate", "involvedObject": {"name": "r-worker-1"}, "message": "exceeded quota: team"},
    ]
    assert status.summarise(3, [pod("a")], events).problem == "2 pods cannot be created: exceeded quota: team"
    assert status.summarise(1, [pod("a")], events).problem == "", "what was refused before is no problem now"


def test_a_node_that_fits_none_is_a_problem_unless_one_is_on_its_way() -> None:
    pods = [pod("a", ready=False, unscheduled="0/1 nodes are available: 1 Insufficient cpu.")]
    assert status.summarise(1, pods, []).problem == (
        "no node fits 1 workers: 0/1 nodes are available: 1 Insufficient cpu."
    )
    adding = [{"reason": "TriggeredScaleUp", "involvedObject": {"name": "r-worker-a"}, "lastTimestamp": "1"}]
    assert status.summarise(1, pods, adding).problem == ""
    assert status.summarise(1, pods, []).text == (
        "1 waiting for a node (none fits yet: 0/1 nodes are available: 1 Insufficient cpu)"
    )


def test_a_node_that_the_autoscaler_could_not_get_after_all_is_a_problem_with_its_reason() -> None:
    pods = [pod("a", ready=False, unscheduled="0/1 nodes are available: 1 Insufficient cpu.")]
    about = {"involvedObject": {"name": "r-worker-a"}}
    failed = {**about, "reason": "FailedScaleUp", "lastTimestamp": "2", "message": "out of resources"}
    adding = {**about, "reason": "TriggeredScaleUp", "lastTimestamp": "1"}
    assert "cannot add a node for them either: out of resources" in status.summarise(1, pods, [failed, adding]).problem
    again = {**adding, "lastTimestamp": "3"}
    assert status.summarise(1, pods, [adding, failed, again]).problem == ""


def test_a_table_of_pods_tells_what_the_whole_pods_do(scaled: Bed, api: Api) -> None:
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


def test_a_pod_that_no_scheduler_has_looked_at_yet_is_starting() -> None:
    found = kubernetes.from_table(table([pod("a", ready=False, unscheduled="later")]))
    assert status.summarise(1, found, []).text == "1 starting"


def test_who_waits_for_workers_is_not_idle(scaled: Bed, api: Api, tmp_path: Path) -> None:
    api.replicas = 2
    (tmp_path / "config" / "idleMinutes").write_text("0.02")
    with pytest.raises(AssertionError):
        wait_for(lambda: scaled.ask("status") and "scaling to 0" in scaled.broker.log(), 3)
    wait_for(lambda: "scaling to 0" in scaled.broker.log())


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


def test_workers_nobody_uses_are_let_go_after_the_idle_minutes(scaled: Bed, api: Api, tmp_path: Path) -> None:
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


def test_the_idle_time_goes_on_over_a_restart_of_the_scheduler(scaled: Bed, api: Api, tmp_path: Path) -> None:
    (tmp_path / "config" / "idleMinutes").write_text("0.2")
    scaled.worker("r-worker-a")
    api.pods = [pod("a", ready=False)]
    time.sleep(6)
    scaled.broker.end()
    scaled.broker.wait()
    restarted = time.monotonic()
    scaled.start_broker(**environ(api, tmp_path), FUTURE_KUBERNETES_IDLE_CHECK_SECONDS="0.1")
    wait_for(lambda: "scaling to 0 (idleMinutes)" in scaled.broker.log(), 20)
    assert time.monotonic() - restarted < 11, "the count began anew: that takes the whole 12 s"
    assert "the workers were last used" in scaled.broker.log()


def test_a_session_of_before_the_restart_counts_as_use(scaled: Bed, api: Api, tmp_path: Path) -> None:
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


def test_workers_go_when_the_stacks_hours_are_over_and_none_comes_after(scaled: Bed, api: Api, tmp_path: Path) -> None:
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
def test_idle_workers_go_after_their_minutes_and_never_when_those_are_0(
    now: float, last: float, minutes: float
) -> None:
    assert idle.due(now, last, minutes) == (minutes > 0 and now - last >= minutes * 60)
    assert not idle.due(now, last, 0)
    assert not idle.due(last, last, max(minutes, 0.001))
