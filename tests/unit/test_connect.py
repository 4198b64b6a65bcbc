"""`future-kubernetes connect`: a forward that is restarted, with a program in kubectl's place."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.connect import free_port
from common.errors import UserError
from common.paths import REPO
from common.patience import patience

# Serves the given port until the file `down` exists; then it fails as kubectl does.
KUBECTL = """
import http.server, pathlib, sys, threading, time
folder = pathlib.Path(sys.argv[1])
port = int(sys.argv[-1].split(":")[0])
if (folder / "forbidden").exists():
    sys.exit((folder / "forbidden").read_text())
if (folder / "down").exists():
    sys.exit("error: unable to forward port because pod is not running")
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(302)
        self.end_headers()
    def log_message(self, *_): pass
server = http.server.HTTPServer(("127.0.0.1", port), Handler)
print(f"Forwarding from 127.0.0.1:{port} -> 8787", flush=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
while not (folder / "down").exists():
    time.sleep(0.02)
print("error: lost connection to pod", flush=True)
"""

PROGRAM = """
import sys
from cli import connect
from cli.stack import Stack
class Kubectl:
    def command(self, *arguments):
        return [sys.executable, sys.argv[1] + "/kubectl.py", sys.argv[1], *arguments]
outputs = {"username": "rstudio", "password": "the secret word", "url": sys.argv[5]}
stack = Stack("team", Kubectl(), "future-team", "", (), outputs)
connect.FIRST_SECONDS, connect.CHECK_SECONDS = float(sys.argv[4]), 0.1
try:
    connect.connect(stack, int(sys.argv[2]), browser=False, show_password=sys.argv[3] == "yes")
except KeyboardInterrupt:
    sys.exit(130)
except Exception as error:
    sys.exit(f"error: {error}")
"""


class Connecting:
    """The command in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "kubectl.py").write_text(KUBECTL)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, port: int, password: str = "no", first: float = 60.0, url: str = "https://r.example.org") -> None:
        with (self.folder / "said").open("wb") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, self.folder, str(port), password, str(first), url],
                cwd=REPO, stdout=said, stderr=said,
            )  # fmt: skip

    def said(self) -> str:
        return (self.folder / "said").read_text()

    def until(self, what: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + patience(30)
        while time.monotonic() < deadline:
            if answer := what():
                return answer
            time.sleep(0.02)
        raise AssertionError(self.said())

    def end(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(30)


@pytest.fixture
def connecting(tmp_path: Path) -> Iterator[Connecting]:
    made = Connecting(tmp_path)
    yield made
    if made.process is not None and made.process.poll() is None:
        made.end()


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def answers(port: int) -> bool:
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        link.request("GET", "/")
        return link.getresponse().status == 302
    except OSError:
        return False
    finally:
        link.close()


def test_connect_shows_the_address_and_password_only_on_request(connecting: Connecting, port: int) -> None:
    connecting.start(port)
    connecting.until(lambda: f"http://localhost:{port}/" in connecting.said())
    assert answers(port)
    connecting.until(lambda: "future-kubernetes password --stack team" in connecting.said())
    assert "the secret word" not in connecting.said()
    assert connecting.end() == 130
    assert not answers(port), "the forward ends with the command"


def test_the_password_is_shown_when_asked(connecting: Connecting, port: int) -> None:
    connecting.start(port, password="yes")
    connecting.until(lambda: "password the secret word" in connecting.said())


def test_the_address_has_the_path_of_the_stack(connecting: Connecting, port: int) -> None:
    connecting.start(port, url="https://r.example.org/team/r")
    connecting.until(lambda: f"http://localhost:{port}/team/r/\n" in connecting.said())


def test_a_forward_that_drops_is_made_again(connecting: Connecting, port: int) -> None:
    connecting.start(port)
    connecting.until(lambda: "Ctrl-C ends the connection" in connecting.said())
    (connecting.folder / "down").touch()
    connecting.until(lambda: "The connection was lost: error: lost connection to pod." in connecting.said())
    (connecting.folder / "down").unlink()
    connecting.until(lambda: "Connected again." in connecting.said())
    assert answers(port)
    assert connecting.said().count("Ctrl-C ends the connection") == 1
    assert connecting.said().count("The connection was lost") == 1, "once, however often it is tried"


def test_another_port_is_taken_where_this_one_is_in_use(connecting: Connecting) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        connecting.start(port)
        connecting.until(lambda: f"Port {port} of this machine is taken: using" in connecting.said())
        connecting.until(lambda: "Ctrl-C ends the connection" in connecting.said())


def test_what_cannot_be_reached_at_all_ends_with_the_reason(connecting: Connecting, port: int) -> None:
    (connecting.folder / "down").touch()
    connecting.start(port, first=0.5)
    assert connecting.process is not None
    assert connecting.process.wait(30) == 1
    assert "error: the IDE of stack 'team' was not reached within" in connecting.said()
    assert "Fix: future-kubernetes status --stack team" in connecting.said()


@pytest.mark.parametrize(
    "message",
    [
        'Error from server (Forbidden): services "r-scheduler" is forbidden: User "u" cannot get resource "services"',
        'error: error upgrading connection: pods "r" is forbidden: User "u" cannot create resource "pods/portforward"',
    ],
)
def test_login_without_the_right_is_told_at_once_which_one(connecting: Connecting, port: int, message: str) -> None:
    (connecting.folder / "forbidden").write_text(message)
    connecting.start(port)  # with a minute for the first connection
    assert connecting.process is not None
    assert connecting.process.wait(30) == 1
    assert f"may not forward a port of stack 'team': {message}" in connecting.said()
    assert "Fix: ask for a role that may create pods/portforward" in connecting.said()
    assert "Trying again" not in connecting.said()


def test_without_a_free_port_the_option_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(UserError, match="future-kubernetes connect --port NUMBER"):
        free_port(8787)


def test_no_kubectl_is_left_behind(connecting: Connecting, port: int) -> None:
    connecting.start(port)
    connecting.until(lambda: "Ctrl-C ends the connection" in connecting.said())
    assert connecting.process is not None
    children = Path(f"/proc/{connecting.process.pid}/task/{connecting.process.pid}/children").read_text().split()
    assert len(children) == 1
    connecting.end()
    connecting.until(lambda: not os.path.exists(f"/proc/{children[0]}"))
