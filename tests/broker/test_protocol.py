"""Worker, broker and R session of different protocol versions refuse each other, and each side says what to do."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from image.common import protocol, tls, wire

from .conftest import ROOT, TOKEN, Bed, wait_for
from .r_session import Session

OLDER, NEWER = str(protocol.VERSION - 1), str(protocol.VERSION + 1)


@pytest.mark.parametrize(
    ("version", "restarted"),
    [(OLDER, "deployment/r-worker"), (NEWER, "deployment/r-scheduler"), ("None", "deployment/r-worker")],
)
def test_worker_of_another_version_is_refused_in_both_logs(bed: Bed, version: str, restarted: str) -> None:
    bed.restart_broker(FUTURE_KUBERNETES_RELEASE="r")
    worker = bed.start_worker("w1", TEST_PROTOCOL=version, FUTURE_KUBERNETES_RELEASE="r")
    states = "no protocol version" if version == "None" else f"protocol version {version}"
    told = f"the worker states {states} and the broker protocol version {protocol.VERSION}"
    wait_for(lambda: told in bed.broker.log())
    assert f"refused w1: {told}" in bed.broker.log()
    assert f"kubectl rollout restart {restarted}" in bed.broker.log()
    assert bed.table() == {}
    if version != "None":  # a worker that states nothing does not know of versions
        wait_for(lambda: told in worker.log())
        assert f"kubectl rollout restart {restarted}" in worker.log()
    assert bed.probe("w1")[0] == 503


def test_refused_worker_fits_after_the_update_and_is_taken(bed: Bed) -> None:
    bed.restart_broker(TEST_PROTOCOL=NEWER)
    worker = bed.start_worker("w1")
    wait_for(lambda: "does not fit the broker" in worker.log())
    bed.restart_broker()
    wait_for(lambda: bed.state("w1") == "idle", protocol.RETRY_SECONDS + 5)


@contextmanager
def broker_that_answers(answer: bytes) -> Iterator[int]:
    """The port of a broker that holds the token, and answers each greeting so."""
    context = tls.context(TOKEN.encode(), server=True)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    plain, _ = listener.accept()
                except OSError:
                    return
                with context.wrap_socket(plain, server_side=True) as sock:
                    sock.recv(wire.MAX_LINE)
                    sock.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def test_worker_refuses_a_broker_without_a_version(bed: Bed) -> None:
    with broker_that_answers(wire.encode(ok=True)) as port:
        worker = bed.start_worker("w1", FUTURE_KUBERNETES_PORT=str(port), FUTURE_KUBERNETES_RELEASE="r")
        wait_for(lambda: "does not fit the broker" in worker.log())
    assert f"the worker states protocol version {protocol.VERSION} and the broker no protocol version" in worker.log()
    assert "kubectl rollout restart deployment/r-scheduler" in worker.log()
    assert bed.probe("w1")[0] == 503


def test_refusal_answers_the_greeting_with_version_and_reason(bed: Bed) -> None:
    context = tls.context(TOKEN.encode(), server=False)
    for pod in ("w1", "w2"):
        plain = socket.create_connection(("127.0.0.1", bed.ports["workers"]), timeout=5)
        with context.wrap_socket(plain) as sock:
            sock.sendall(wire.encode(op="worker", protocol=int(OLDER), pod=pod, node="n"))
            answer = wire.decode(sock.recv(wire.MAX_LINE))
        assert answer["protocol"] == protocol.VERSION
        assert f"the worker states protocol version {OLDER}" in answer["error"]


@pytest.mark.parametrize("greeting", [f"protocol {OLDER}", f"protocol {NEWER}", "count 1", "protocol", "protocol one"])
def test_r_session_of_another_version_is_refused_with_the_fix(bed: Bed, greeting: str) -> None:
    with Session(bed.ports["sessions"], greeting) as session:
        assert session.banner == f"protocol {protocol.VERSION}"
        answer = session.line()
        assert session.ended(5)
    version = greeting.removeprefix("protocol ")
    states = f"protocol version {version}" if version.isdecimal() else "no protocol version"
    told = f"this R session states {states} and the broker of this pod protocol version {protocol.VERSION}"
    assert answer.startswith(f"error protocol {told}")
    assert "Restart the R session" in answer
    assert f"refused an R session: {told}" in bed.broker.log()


def test_port_of_r_sessions_is_in_the_file_r_reads(bed: Bed) -> None:
    assert (bed.folder / "broker.port").read_text() == f"{bed.ports['sessions']}\n"


@pytest.mark.parametrize("source", ["image/future.kubernetes/R/broker.R", "image/etc/Rprofile"])
def test_r_states_the_version_of_the_broker(source: str) -> None:
    assert re.findall(r"protocol_version <- (\d+)L", (ROOT / source).read_text()) == [str(protocol.VERSION)]
