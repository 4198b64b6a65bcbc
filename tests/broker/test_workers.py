"""A worker's life: it reconnects, its loss is noticed, and SIGTERM ends it in order."""

from __future__ import annotations

import asyncio
import asyncio.sslproto
import itertools
import os
import random
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from common.patience import patience
from image.broker import main
from image.broker.connections import share_buffer
from image.broker.loss_causes import describe_end
from image.worker.dialer import retry_delay

from .conftest import FAKE_R, Bed, Process, children, wait_for


def ready(bed: Bed, pod: str) -> bool:
    return bed.probe(pod)[0] == 200


def test_workers_reconnect_within_a_second_of_a_broker_restart(bed: Bed) -> None:
    bed.worker("w1")
    bed.broker.end()
    bed.broker.wait()
    wait_for(lambda: not ready(bed, "w1"))
    time.sleep(5)  # long enough for an uncapped delay to have grown past a second
    bed.start_broker()
    wait_for(lambda: bed.state("w1") == "idle", 1.5)


def test_retry_delay_varies_and_stays_below_a_second() -> None:
    random.seed(1)
    delays = [retry_delay(attempt) for attempt in range(1000)]
    assert max(delays) < 1
    assert max(delays[10:]) - min(delays[10:]) > 0.3
    assert delays[0] <= 0.1


def test_readiness_follows_the_connection(bed: Bed) -> None:
    process = bed.worker("w1")
    assert ready(bed, "w1")
    with bed.attach():
        assert ready(bed, "w1")
    bed.broker.end()
    wait_for(lambda: bed.probe("w1") == (503, "connecting"))
    assert bed.probe("w1", "/livez") == (200, "connecting")
    process.end()
    process.wait()
    assert bed.probe("w1", "/livez") == (0, "")


def test_idle_worker_exits_at_once_on_sigterm(bed: Bed) -> None:
    process = bed.worker("w1")
    process.end(signal.SIGTERM)
    assert process.wait(10) == 0
    wait_for(lambda: bed.table() == {})


def test_busy_worker_finishes_its_future_on_sigterm(bed: Bed) -> None:
    process = bed.worker("w1")
    with bed.attach() as session:
        session.send("sleep 1.5")
        process.end(signal.SIGTERM)
        wait_for(lambda: bed.state("w1") == "draining", 1.4)
        assert session.line() == "slept"
        assert process.process.poll() is None
    assert process.wait() == 0
    wait_for(lambda: bed.ask("count 1") == "ok 0 0 0", 1)


def test_starting_worker_is_not_expected_back_after_sigterm(bed: Bed) -> None:
    waits = f'[ -e "{bed.folder}/used" ] && sleep 20'
    slow = bed.write("slow.sh", f'{waits}\nexec {sys.executable} {FAKE_R} "$@"\n')
    process = bed.worker("w1", FUTURE_KUBERNETES_R=f"sh {slow}")
    bed.write("used", "")
    with bed.attach():
        pass
    wait_for(lambda: bed.probe("w1") == (503, "starting"))
    assert bed.ask("count 1") == "ok 1 0 0", "its R is about to start anew"
    process.end(signal.SIGTERM)
    assert process.wait(3) == 0
    assert bed.ask("count 1") == "ok 0 0 0"


def test_killed_r_is_noticed_at_once_with_its_outcome(bed: Bed) -> None:
    bed.worker("w1")
    with bed.attach() as session:
        session.send("die")
        assert session.ended(1)
        assert bed.ask(f"outcome {session.lease}") == "ok its R process was ended by signal 9"
    assert "w1 was lost while a session used it" in bed.broker.log()
    wait_for(lambda: bed.state("w1") == "idle")
    assert bed.table()["w1"]["losses"] == 1


def test_r_that_quits_on_request_is_no_loss(bed: Bed) -> None:
    bed.worker("w1")
    with bed.attach() as session:
        session.send("quit")
        assert session.ended(2)
    wait_for(lambda: bed.state("w1") == "idle")
    assert bed.table()["w1"]["losses"] == 0


def test_idle_r_that_ends_is_replaced(bed: Bed) -> None:
    process = bed.worker("w1")
    killed = children(process.process.pid)[0]
    os.kill(killed, signal.SIGKILL)
    wait_for(lambda: "R ended with status -9 while it waited" in process.log())
    with bed.attach() as session:
        assert session.call("pid") != str(killed)


def test_r_that_cannot_start_is_logged_and_tried_again(bed: Bed) -> None:
    process = bed.start_worker("w1", FUTURE_KUBERNETES_R="false")
    wait_for(lambda: process.log().count("R ended with status 1 before it was ready") == 2, 20)
    assert not ready(bed, "w1")


def test_worker_without_a_scheduler_names_the_variable(bed: Bed) -> None:
    process = bed.start_worker("w1", FUTURE_KUBERNETES_SCHEDULER="")
    assert process.wait() == 1
    assert "FUTURE_KUBERNETES_SCHEDULER is not set" in process.log()


def test_killed_worker_closes_its_session_at_once(bed: Bed) -> None:
    process = bed.worker("w1")
    with bed.attach() as session:
        os.killpg(process.process.pid, signal.SIGKILL)
        assert session.ended(1)


def test_restarted_agent_replaces_its_old_connection(bed: Bed) -> None:
    bed.worker("w1")
    with bed.attach() as session:
        bed.start_worker("w1")
        assert session.ended(5)
    assert bed.state("w1") == "idle"


class CutLink:
    """A network namespace of a worker's own, and a link to it that can be cut."""

    _number = itertools.count()

    def __init__(self) -> None:
        number = next(self._number)
        self.name = f"fk{os.getpid()}-{number}"
        # Addresses of its own, of the range for benchmarks (RFC 2544): another run's link may stand at the same time.
        base = ((os.getpid() * 8 + number) % 32768) * 4
        network = f"198.{18 + (base >> 16)}.{base >> 8 & 255}"
        self.near, self.far = f"{network}.{(base & 255) + 1}", f"{network}.{(base & 255) + 2}"
        for command in (
            f"netns add {self.name}",
            f"link add {self.name}h type veth peer name eth0 netns {self.name}",
            f"addr add {self.near}/30 dev {self.name}h",
            f"link set {self.name}h up",
            f"-n {self.name} addr add {self.far}/30 dev eth0",
            f"-n {self.name} link set eth0 up",
            f"-n {self.name} link set lo up",
        ):
            subprocess.run(["ip", *command.split()], check=True)

    def cut(self) -> None:
        """Drop packets both ways without an error on either end: the near interface stays up."""
        subprocess.run(["ip", "-n", self.name, "addr", "flush", "dev", "eth0"], check=True)
        subprocess.run(["ip", "neigh", "replace", self.far, "lladdr", "02:00:00:00:00:01",
                        "dev", f"{self.name}h", "nud", "permanent"], check=True)  # fmt: skip

    def remove(self) -> None:
        subprocess.run(["ip", "link", "del", f"{self.name}h"], check=False)
        subprocess.run(["ip", "netns", "del", self.name], check=False)


@pytest.fixture
def link() -> Iterator[CutLink]:
    if os.geteuid() != 0:
        pytest.skip("cutting a link takes a network namespace, and that takes root")
    made = CutLink()
    yield made
    made.remove()


@pytest.mark.timeout(90)
@pytest.mark.parametrize("in_flight", [False, True], ids=["while it computes", "with data under way"])
def test_silent_network_is_noticed_on_both_ends(bed: Bed, link: CutLink, in_flight: bool) -> None:
    process: Process = bed.start_worker(
        "w1", prefix=("ip", "netns", "exec", link.name), FUTURE_KUBERNETES_SCHEDULER=link.near
    )
    wait_for(lambda: bed.state("w1") == "idle")
    with bed.attach() as session:
        session.send("sleep 600")
        link.cut()
        start = time.monotonic()
        if in_flight:
            session.socket.sendall(bytes(200_000))
        assert session.ended(16)
        assert 3 < time.monotonic() - start < patience(15)
        wait_for(lambda: not ready(bed, "w1"), 16)  # a probe starts a process, which takes its time on a busy machine
    assert process.process.poll() is None


def test_outcome_of_a_killed_r_has_signal_or_memory_limit() -> None:
    assert describe_end(-9, oom=True, limit_mib=512) == (
        "its R process was killed for want of memory (out of memory, limit 512 MiB)"
    )
    assert describe_end(-9, oom=True).endswith("(out of memory)")
    assert describe_end(-11) == "its R process was ended by signal 11"
    assert describe_end(3) == "its R process ended with exit status 3"


def test_tls_connections_of_all_workers_share_one_receive_buffer() -> None:
    loop, context = asyncio.new_event_loop(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    layers = [
        asyncio.sslproto.SSLProtocol(loop, asyncio.Protocol(), context, loop.create_future(), server_side=True)
        for _ in "ab"
    ]
    for layer in layers:
        share_buffer(SimpleNamespace(_ssl_protocol=layer))  # type: ignore[arg-type]
    first, second = (layer.get_buffer(main._TLS_READ_BYTES) for layer in layers)
    assert first is second
    share_buffer(asyncio.BaseTransport())  # plain, or of a Python without these attributes
    loop.close()
