"""Real broker and worker processes on loopback; a small program stands in for R, which this machine may not have."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from common.patience import patience

from .kubernetes_api import Api, environ
from .r_session import PlanSession, Session

ROOT = Path(__file__).resolve().parents[2]


GET = """
import sys, urllib.error, urllib.request
try:
    answer = urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}{sys.argv[2]}", timeout=5)
except urllib.error.HTTPError as error:
    answer = error
except OSError:
    sys.exit()
print(answer.status, answer.read().decode())
"""
TOKEN = "test-token-of-forty-characters-0123456789"
# This machine's own group may have no figures: with cgroup v2 the root has none.
WORKERS_GROUP = {
    "memory.current": f"{150 << 20}\n",
    "memory.stat": "anon 1\ninactive_file 0\n",
    "cpu.stat": "usage_usec 1\n",
}
FAKE_R = Path(__file__).parent / "fake_r.py"


def wait_for(what: Callable[[], Any], seconds: float = 10.0) -> Any:
    """The first true result of ``what``; fails after ``seconds``."""
    deadline = time.monotonic() + patience(seconds)
    while time.monotonic() < deadline:
        if answer := what():
            return answer
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s")


def children(pid: int) -> list[int]:
    """Processes that its main thread has started, until the process is waited for."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Process:
    """A process of the project, with its log."""

    def __init__(self, module: str, log: Path, environ: dict[str, str], prefix: tuple[str, ...] = ()) -> None:
        self.log_file = log
        run = f"from {module} import main; main()"
        if version := environ.get("TEST_PROTOCOL"):
            run = f"from image.common import protocol; protocol.VERSION = {version}; {run}"
        if dies := environ.get("TEST_DIES"):
            when, method = dies.split()
            run = f"from tests.broker import dying; dying.install({when!r}, {method!r}); {run}"
        if first := environ.get("TEST_FIRST"):
            run = f"{first}; {run}"
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, "-c", run],
                cwd=ROOT,
                # The second: `make coverage` also measures the processes that tests start.
                env={name: os.environ[name] for name in ("PATH", "COVERAGE_PROCESS_CONFIG") if name in os.environ}
                | environ,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def log(self) -> str:
        return self.log_file.read_text()

    def end(self, number: int = signal.SIGKILL) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)

    def wait(self, seconds: float = 10.0) -> int:
        return self.process.wait(seconds)


class Bed:
    """One broker and its workers."""

    broker_prefix: tuple[str, ...] = ()

    def __init__(self, folder: Path, **environ: str) -> None:
        self.folder = folder
        self.temporary = tempfile.mkdtemp(prefix="bed-")
        """For what a killed process leaves. pytest's own folder is too deep for a socket's path of 108 bytes."""
        self.environ = environ
        self.token_file = self.write("token", TOKEN)
        self.processes: list[Process] = []
        self.ports: dict[str, int] = {"workers": 0, "sessions": 0, "http": 0}
        self.probes: dict[str, tuple[tuple[str, ...], int]] = {}
        (folder / "proc").mkdir(exist_ok=True)
        self.start_broker()

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def start_broker(self, **environ: str) -> Process:
        """Start the broker; from the second time on, on the same ports as before."""
        process = Process(
            "image.broker.main",
            self.folder / f"broker-{len(self.processes)}.log",
            {
                "FUTURE_KUBERNETES_TOKEN_FILE": str(self.token_file),
                "FUTURE_KUBERNETES_RUN": str(self.folder),
                "TMPDIR": self.temporary,
                "FUTURE_KUBERNETES_PORT": str(self.ports["workers"]),
                "FUTURE_KUBERNETES_SESSION_PORT": str(self.ports["sessions"]),
                "FUTURE_KUBERNETES_HTTP_PORT": str(self.ports["http"]),
                "FUTURE_KUBERNETES_CGROUP": str(self.folder / "cgroup"),
                "FUTURE_KUBERNETES_PROC": str(self.folder / "proc"),
                **self.environ,
                **environ,
            },
            self.broker_prefix,
        )
        self.processes.append(process)
        self.broker = process
        found = wait_for(lambda: re.search(r"listening: (\{.*\})", process.log()))
        self.ports = ast.literal_eval(found[1])
        return process

    def restart_broker(self, **environ: str) -> None:
        self.broker.end()
        self.broker.wait()
        self.start_broker(**environ)

    def start_worker(self, pod: str, prefix: tuple[str, ...] = (), **environ: str) -> Process:
        port = free_port()
        self.probes[pod] = prefix, port
        group = self.folder / "cgroup-of-workers"
        group.mkdir(exist_ok=True)
        for name, text in WORKERS_GROUP.items():
            (group / name).write_text(text)
        process = Process(
            "image.worker.agent",
            self.folder / f"{pod}.log",
            {
                "FUTURE_KUBERNETES_SCHEDULER": "127.0.0.1",
                "TMPDIR": self.temporary,
                "FUTURE_KUBERNETES_PORT": str(self.ports["workers"]),
                "FUTURE_KUBERNETES_TOKEN_FILE": str(self.token_file),
                "FUTURE_KUBERNETES_HTTP_PORT": str(port),
                "FUTURE_KUBERNETES_R": f"{sys.executable} {FAKE_R}",
                "FUTURE_KUBERNETES_CGROUP": str(group),
                "POD_NAME": pod,
                "NODE_NAME": f"node-of-{pod}",
                **environ,
            },
            prefix,
        )
        self.processes.append(process)
        return process

    def probe(self, pod: str, path: str = "/readyz") -> tuple[int, str]:
        """The agent's answer to a probe: HTTP status and state; (0, "") when nothing answers."""
        prefix, port = self.probes[pod]
        done = subprocess.run(
            [*prefix, sys.executable, "-c", GET, str(port), path], capture_output=True, text=True, check=False
        )
        status, _, body = done.stdout.partition(" ")
        return int(status or 0), body.strip()

    def worker(self, pod: str, prefix: tuple[str, ...] = (), **environ: str) -> Process:
        """A worker that is connected and idle."""
        process = self.start_worker(pod, prefix, **environ)
        wait_for(lambda: self.state(pod) == "idle")
        return process

    def session(self) -> Session:
        return Session(self.ports["sessions"])

    def ask(self, line: str) -> str:
        with self.session() as session:
            session.send(line)
            return session.line()

    def table(self) -> dict[str, dict[str, Any]]:
        return {row["pod"]: row for row in json.loads(self.ask("workers"))}

    def state(self, pod: str) -> str | None:
        row = self.table().get(pod)
        return row["state"] if row else None

    def attach(self, pid: int = 1, seconds: float = 5.0) -> Session:
        """A session that has been joined to a worker."""
        session = self.session()
        session.send(f"attach {pid} {seconds}")
        answer = session.line()
        while answer.startswith("wait"):
            answer = session.line()
        assert answer.startswith("ok"), answer
        _, session.lease, session.pod, session.node = answer.split()
        return session

    def plan(self, maximum: int = 1, **options: Any) -> PlanSession:
        return PlanSession(self, maximum, **options)

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.end(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(3)
            except subprocess.TimeoutExpired:
                left = children(process.process.pid)  # an agent that waits for its R's computation
                process.end()
                process.wait()
                for pid in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.temporary, ignore_errors=True)


@pytest.fixture
def bed(tmp_path: Path) -> Iterator[Bed]:
    """A broker, with helpers to start workers and to speak as an R session."""
    made = Bed(tmp_path)
    yield made
    made.stop()


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


def restarted(bed: Bed, api: Api, folder: Path, **settings: str) -> Bed:
    """Restart the broker with access to the API."""
    bed.restart_broker(**environ(api, folder), **settings)
    return bed


@pytest.fixture
def scaled(bed: Bed, api: Api, tmp_path: Path) -> Bed:
    """A broker with an API that makes the idle decision every 0.1 s."""
    return restarted(bed, api, tmp_path, FUTURE_KUBERNETES_IDLE_CHECK_SECONDS="0.1")


@pytest.fixture
def impatient(bed: Bed, api: Api, tmp_path: Path) -> Bed:
    """A broker with an API that waits 3 s instead of 90 for Kubernetes to see a retired worker unready."""
    return restarted(bed, api, tmp_path, FUTURE_KUBERNETES_RETIRE_SECONDS="3")
