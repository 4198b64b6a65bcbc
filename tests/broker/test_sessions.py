"""R sessions get workers, and only peers with the token connect."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import socket
import ssl
import subprocess
import threading
import time
from contextlib import suppress

import pytest

from image.common import protocol, tls, wire

from .conftest import TOKEN, Bed, wait_for


def test_session_gets_an_idle_worker_at_once(bed: Bed) -> None:
    bed.worker("w1")
    with bed.session() as session:
        session.send("attach 1 5")
        assert session.line().startswith("ok "), "it has to wait for nothing"
    wait_for(lambda: bed.state("w1") == "idle")
    with bed.attach() as session:
        assert (session.pod, session.node) == ("w1", "node-of-w1")
        assert int(session.call("pid")) > 0
        assert bed.state("w1") == "busy"


def test_bytes_between_session_and_r_are_unchanged(bed: Bed) -> None:
    bed.worker("w1")
    data = random.Random(1).randbytes(30_000_000)
    with bed.attach() as session:
        session.send(f"echo {len(data)}")
        threading.Thread(target=session.socket.sendall, args=(data,)).start()
        digest, left = hashlib.sha256(), len(data)
        while left:
            piece = session.socket.recv(1 << 20)
            assert piece
            digest.update(piece)
            left -= len(piece)
        assert digest.digest() == hashlib.sha256(data).digest()
        assert int(session.call("pid")) > 0


def test_each_session_gets_a_worker_of_its_own(bed: Bed) -> None:
    for pod in ("w1", "w2", "w3"):
        bed.worker(pod)
    sessions = [bed.attach() for _ in range(3)]
    assert {session.pod for session in sessions} == {"w1", "w2", "w3"}
    assert len({session.call("pid") for session in sessions}) == 3
    for session in sessions:
        session.socket.close()


def test_each_lease_gets_a_fresh_r_without_leftovers(bed: Bed) -> None:
    bed.worker("w1")
    with bed.attach() as first:
        pid, folder, child = first.call("pid"), first.call("tmpdir"), int(first.call("fork"))
    with bed.attach() as second:
        assert second.call("pid") != pid
    assert not os.path.exists(folder)
    # The child was reaped by the worker or, where the worker is not the first process, by init.
    with suppress(FileNotFoundError), open(f"/proc/{child}/stat") as stat:
        assert stat.read().rsplit(") ", 1)[1][0] == "Z"


def test_waiting_session_gets_progress_until_a_worker_connects(bed: Bed) -> None:
    with bed.session() as session:
        session.send("attach 7 20")
        assert session.line() == "wait 0 0"
        bed.start_worker("w1")
        answer = session.line()
        while answer.startswith("wait"):
            answer = session.line()
        assert answer.split()[2] == "w1"


def test_waiting_session_is_refused_after_its_time(bed: Bed) -> None:
    bed.worker("w1")
    with bed.attach(pid=1), bed.session() as session:
        session.send("attach 2 0.5")
        assert session.line() == "wait 1 1"
        while (answer := session.line()).startswith("wait"):
            pass
        assert answer.startswith("error no worker is free: 1 connected, 1 in use.")
        assert "plan(sequential)" in answer


def test_count_distinguishes_free_own_and_other_workers(bed: Bed) -> None:
    for pod in ("w1", "w2", "w3"):
        bed.worker(pod)
    assert bed.ask("count 1") == "ok 3 0 0"
    with bed.attach(pid=1), bed.attach(pid=2):
        assert bed.ask("count 1") == "ok 1 1 1"
        assert bed.ask("count 3") == "ok 1 0 2"


def test_just_released_worker_counts_as_free(bed: Bed) -> None:
    bed.worker("w1")
    bed.attach(pid=1).socket.close()
    wait_for(lambda: bed.ask("count 1") == "ok 1 0 0", 0.25)
    bed.attach(pid=1).socket.close()


def test_malformed_request_is_refused_with_the_known_ones(bed: Bed) -> None:
    for request in ("frobnicate", "attach", "attach one 5", "attach 1 soon", "", "count 1 2 3"):
        answer = bed.ask(request)
        assert answer.startswith("error not understood"), request
        assert "attach, count" in answer


def test_session_with_an_endless_line_is_dropped(bed: Bed) -> None:
    with bed.session() as session:
        session.socket.sendall(b"x" * (wire.MAX_LINE + 1))
        assert session.ended(5)


def greeting(**message: str) -> bytes:
    return wire.encode(op="worker", protocol=protocol.VERSION, **message)


def _peer(bed: Bed, context: ssl.SSLContext) -> ssl.SSLSocket:
    return context.wrap_socket(socket.create_connection(("127.0.0.1", bed.ports["workers"]), timeout=5))


def _refused(bed: Bed, context: ssl.SSLContext) -> bool:
    try:
        with _peer(bed, context) as sock:
            sock.sendall(greeting(pod="evil", node="n"))
            return sock.recv(100) == b""
    except (ssl.SSLError, ConnectionError):
        return True


def test_peer_without_the_token_is_refused_in_the_handshake(bed: Bed) -> None:
    nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    nobody.check_hostname = False
    nobody.verify_mode = ssl.CERT_NONE
    assert _refused(bed, nobody)
    stranger = tls.context(b"another-token-of-forty-characters-012345", server=False)
    stranger.verify_mode = ssl.CERT_NONE  # it does not care who it speaks to
    assert _refused(bed, stranger)
    with socket.create_connection(("127.0.0.1", bed.ports["workers"]), timeout=5) as plain:
        plain.sendall(greeting(pod="evil", node="n"))
        with suppress(ConnectionError):
            answer = plain.recv(1000)
            assert answer == b"" or answer[0] == 0x15  # a TLS alert
    assert bed.table() == {}
    assert not _refused(bed, tls.context(TOKEN.encode(), server=False))


def test_worker_refuses_a_broker_without_the_token(bed: Bed) -> None:
    other = bed.write("other-token", "another-token-of-forty-characters-012345")
    process = bed.start_worker("w1", FUTURE_KUBERNETES_TOKEN_FILE=str(other))
    wait_for(lambda: "does not hold this release's token" in process.log())
    assert process.log().count("does not hold") == 1, "the same line is not logged again and again"
    assert bed.table() == {}


def test_short_or_missing_token_stops_a_worker_with_the_fix(bed: Bed) -> None:
    for path, words in ((bed.write("short", "abc"), "3 characters"), (bed.folder / "none", "cannot read")):
        process = bed.start_worker("w1", FUTURE_KUBERNETES_TOKEN_FILE=str(path))
        assert process.wait() == 1
        assert words in process.log()
        assert "Secret" in process.log()
        assert "abc" not in process.log()


def test_worker_that_ignores_its_offer_is_replaced(bed: Bed) -> None:
    with _peer(bed, tls.context(TOKEN.encode(), server=False)) as dead:
        dead.sendall(greeting(pod="dead", node="n"))
        wait_for(lambda: bed.state("dead") == "idle")
        bed.worker("w1")
        with bed.attach(seconds=10) as session:
            assert session.pod == "w1"
        assert "dead did not join" in bed.broker.log()


def test_peer_with_a_malformed_greeting_is_dropped(bed: Bed) -> None:
    for greeting in (b"nonsense\n", b"[]\n", b'{"op":"worker"}\n', b"x" * (wire.MAX_LINE + 1)):
        with _peer(bed, tls.context(TOKEN.encode(), server=False)) as sock:
            sock.sendall(greeting)
            with suppress(ConnectionError, ssl.SSLError):
                assert sock.recv(100) == b""
    assert bed.ask("count 1") == "ok 0 0 0"


@pytest.mark.timeout(60)
def test_large_result_waits_for_a_busy_session(bed: Bed) -> None:
    """TCP_USER_TIMEOUT would end this connection, though its peer is well: see wire.watch_peer."""
    bed.worker("w1")
    size = 40_000_000
    with bed.attach() as session:
        session.send(f"echo {size}")
        threading.Thread(target=session.socket.sendall, args=(bytes(size),), daemon=True).start()
        time.sleep(14)
        left = size
        while left:
            piece = session.socket.recv(1 << 20)
            assert piece
            left -= len(piece)


@pytest.mark.timeout(60)
def test_released_worker_is_free_while_its_connection_closes(bed: Bed) -> None:
    worker = bed.worker("a")
    session = bed.attach(pid=7)
    assert bed.ask("count 7") == "ok 0 1 0"
    worker.process.send_signal(signal.SIGSTOP)  # the end of its connection is not answered
    try:
        session.socket.close()
        wait_for(lambda: bed.ask("count 7") == "ok 1 0 0", 3)
    finally:
        worker.process.send_signal(signal.SIGCONT)


def test_released_worker_is_free_though_a_child_holds_its_connection(bed: Bed) -> None:
    bed.worker("w1")
    session = bed.attach(pid=7)
    child = subprocess.Popen(["sleep", "600"], pass_fds=[session.socket.fileno()])
    try:
        session.send("quit")  # as stopCluster() does
        session.socket.close()
        wait_for(lambda: bed.ask("count 7") == "ok 1 0 0" and bed.state("w1") == "idle")
        with bed.attach() as other:
            assert int(other.call("pid")) > 0
    finally:
        child.kill()
        child.wait()


def test_plan_has_250_idle_workers_and_each_is_leased_once(bed: Bed) -> None:
    context = tls.context(TOKEN.encode(), server=False)
    peers = []
    for i in range(250):
        peers.append(_peer(bed, context))
        peers[-1].sendall(greeting(pod=f"p{i}", node="n"))
        assert wire.decode(peers[-1].recv(100)) == {"ok": True, "protocol": protocol.VERSION}
    wait_for(lambda: bed.ask("count 1") == "ok 250 0 0")
    with bed.plan(250):
        assert bed.ask("connected") == "ok 250 250 250"
    sessions = [bed.session() for _ in range(250)]
    for session in sessions:
        session.send("attach 1 5")
    for peer in peers:
        assert wire.decode(peer.recv(200))["op"] == "attach"
        peer.sendall(wire.encode(op="attached"))
    pods = {session.line().split()[2] for session in sessions}
    assert len(pods) == 250
    for sock in [*(session.socket for session in sessions), *peers]:
        sock.close()
