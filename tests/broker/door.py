"""A running front door: the Jupyter server as the image has it, a stand-in for RStudio Server, and browsers."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench import door as front_door

from .conftest import ROOT, free_port, wait_for

FAKE_RSERVER = Path(__file__).parent / "fake_rserver.py"
PASSWORD = "right password"
UPGRADE = {
    "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "x3JJHMbDL1EzLkh9GBhXDw==",
}  # fmt: skip


INGRESS = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "r.example.org", "Host": "r.example.org"}
"""Headers that an Ingress which ends TLS adds to a request."""


class Door:
    """A running front door, and the cookies of one browser."""

    def __init__(
        self, folder: Path, ide: str, rserver: bool, base: str, environ: dict[str, str], *arguments: str
    ) -> None:
        self.folder, self.base, self.port = folder, base, free_port()
        self.temporary = tempfile.mkdtemp(prefix="door-")
        """For sockets of programs behind it. pytest's own folder is too deep for a socket's path of 108 bytes."""
        self.cookies: dict[str, str] = {}
        self.headers: dict[str, str] = {}
        (folder / "run").mkdir()
        (folder / "bin").mkdir()
        front_door.prepare(folder)
        (folder / "password").write_text(PASSWORD)
        (folder / "rserver.conf").write_text(f"rsession-path={ROOT}/image/bin/future-rsession\n")
        if rserver:
            program = folder / "bin/rserver"
            program.write_text(f'#!/bin/sh\nexec {sys.executable} {FAKE_RSERVER} "$@"\n')
            program.chmod(0o755)
        self.log_file = (folder / "log").open("wb")
        self.process = subprocess.Popen(
            [*front_door.command(self.port, base), *arguments],
            env={
                **front_door.environ(folder, folder / "run", ide), "FUTURE_KUBERNETES_CGROUP": f"{folder}/cgroup",
                "FUTURE_KUBERNETES_NAMESPACE": "team", "FUTURE_KUBERNETES_RELEASE": "r",
                "FAKE_RSERVER_CONF": f"{folder}/rserver.conf", "TMPDIR": self.temporary, **environ,
            },
            stdout=self.log_file, stderr=self.log_file, start_new_session=True,
        )  # fmt: skip
        wait_for(self.answers, 30)

    def answers(self) -> bool:
        assert self.process.poll() is None, self.log()
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def ask(
        self, path: str, data: dict[str, str] | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, http.client.HTTPMessage, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        sent = {"Cookie": cookies, **self.headers, **(headers or {})}
        body = None
        if data is not None:
            body = urllib.parse.urlencode(data)
            sent["Content-Type"] = "application/x-www-form-urlencoded"
        connection.request("GET" if data is None else "POST", path, body, sent)
        answer = connection.getresponse()
        text = "" if answer.status == 101 else answer.read().decode()
        for cookie in answer.headers.get_all("Set-Cookie") or ():
            name, _, value = cookie.split(";")[0].partition("=")
            self.cookies[name] = value
        connection.close()
        return answer.status, answer.headers, text

    def log_in(self, password: str = PASSWORD, headers: dict[str, str] | None = None) -> int:
        if "_xsrf" not in self.cookies:
            self.ask(f"{self.base}login")
        return self.ask(f"{self.base}login", {"password": password, "_xsrf": self.cookies["_xsrf"]}, headers)[0]

    def rservers(self) -> set[int]:
        found = set()
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
                group = os.getpgid(int(folder.name))
            except OSError:
                continue
            if group == self.process.pid and str(FAKE_RSERVER).encode() in words:
                found.add(int(folder.name))
        return found

    def end(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.log_file.close()
            shutil.rmtree(self.temporary, ignore_errors=True)


OpenDoor = Callable[..., Door]


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenDoor]:
    opened: list[Door] = []

    def start(ide: str = "both", rserver: bool = True, base: str = "/", **environ: str) -> Door:
        opened.append(Door(tmp_path_factory.mktemp("door"), ide, rserver, base, environ))
        return opened[-1]

    yield start
    for door in opened:
        door.end()


@pytest.fixture(scope="module")
def logged_in(doors: OpenDoor) -> Door:
    door = doors()
    assert door.log_in() == 302
    return door


class Stranger(Door):
    """Another browser at the same door."""

    def __init__(self, door: Door, headers: dict[str, str] | None = None) -> None:
        self.base, self.port, self.folder = door.base, door.port, door.folder
        self.cookies, self.headers = {}, dict(headers or {})


LACKS_SOCKET = {"FAKE_RSERVER_LACKS": "www-socket"}
