"""Kernels behind the front door, as JupyterLab uses them. They run Python: this machine may have no R."""

from __future__ import annotations

import http.client
import json
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import websocket
from jupyter_server.services.kernels.connection import base

from common.patience import patience

from .door import Door

framing: Any = base
PROTOCOL = "v1.kernel.websocket.jupyter.org"


def kernelspec(folder: Path) -> dict[str, str]:
    """Environment of a front door whose kernel `ir` is Python's."""
    spec = folder / "jupyter/kernels/ir/kernel.json"
    spec.parent.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec.write_text(
        json.dumps({"argv": argv, "display_name": "R", "language": "R", "env": {"PYDEVD_DISABLE_FILE_VALIDATION": "1"}})
    )
    return {"JUPYTER_PATH": str(folder / "jupyter")}


def api(door: Door, method: str, path: str, body: object = None) -> Any:
    """Answer of the server's REST API to a person who is logged in."""
    connection = http.client.HTTPConnection("127.0.0.1", door.port, timeout=60)
    cookies = "; ".join(f"{name}={value}" for name, value in door.cookies.items())
    headers = {"Cookie": cookies, "X-XSRFToken": door.cookies["_xsrf"]}
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    answer = connection.getresponse()
    text = answer.read()
    assert answer.status < 300, text
    connection.close()
    return json.loads(text) if text else None


class Tab:
    """A notebook's connection to its kernel."""

    def __init__(self, door: Door, kernel: str) -> None:
        self.session = uuid.uuid4().hex
        self.socket = websocket.create_connection(
            f"ws://127.0.0.1:{door.port}/api/kernels/{kernel}/channels?session_id={self.session}",
            cookie="; ".join(f"{name}={value}" for name, value in door.cookies.items()),
            subprotocols=[PROTOCOL], timeout=30,
        )  # fmt: skip

    def run(self, code: str) -> str:
        """Send a cell; the name of its request."""
        header = {
            "msg_id": uuid.uuid4().hex, "msg_type": "execute_request", "session": self.session, "username": "",
            "date": "2026-01-01T00:00:00Z", "version": "5.3",
        }  # fmt: skip
        content = {
            "code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False,
            "stop_on_error": True,
        }  # fmt: skip
        parts = [json.dumps(part).encode() for part in (header, {}, {}, content)]
        message = framing.serialize_msg_to_ws_v1(parts, "shell")
        self.socket.send_binary(b"".join(message) if isinstance(message, list) else message)
        return header["msg_id"]

    def hear(self, until: str, deadline: float | None = None) -> list[tuple[str, str, dict[str, Any]]]:
        """Type, cell and content of each message on iopub, up to a state of the kernel, or a type of message.

        ``deadline`` is a time of the monotonic clock, else 30 s from now.
        """
        heard = []
        deadline = deadline or time.monotonic() + patience(30)
        while time.monotonic() < deadline:
            self.socket.settimeout(max(0.1, deadline - time.monotonic()))
            try:
                # Also a ping ends the wait: the server sends one each 30 s, and each begins the socket's limit anew.
                opcode, data = self.socket.recv_data(control_frame=True)
            except websocket.WebSocketTimeoutException:
                break
            if opcode in (websocket.ABNF.OPCODE_PING, websocket.ABNF.OPCODE_PONG):
                continue
            assert opcode == websocket.ABNF.OPCODE_BINARY, data
            channel, parts = framing.deserialize_msg_from_ws_v1(data)
            if channel != "iopub":
                continue
            header, parent, _, content = (json.loads(part) for part in parts[:4])
            heard.append((header["msg_type"], parent.get("msg_id", ""), content))
            if until in (header["msg_type"], content.get("execution_state")):
                return heard
        raise AssertionError(heard)

    def output(self, code: str) -> str:
        """Output of a cell."""
        cell = self.run(code)
        deadline = time.monotonic() + patience(30)
        heard: list[tuple[str, str, dict[str, Any]]] = []
        while not heard or heard[-1][1] != cell:
            heard += self.hear("idle", deadline)
        return "".join(content["text"] for kind, parent, content in heard if kind == "stream" and parent == cell)

    def first_output(self, code: str, tries: int = 30) -> str:
        """Output of the first cell that a restarted kernel runs, which prints something, and errors up to its end.

        A cell that comes too early is lost. A tab that joins the new kernel's channel late misses how a cell began, and
        perhaps what it printed, and so does the server, which writes a notice where a cell begins. In each of these
        cases another cell is sent.
        """
        sent: set[str] = set()
        all_heard: list[tuple[str, str, dict[str, Any]]] = []
        for _ in range(tries):
            sent.add(self.run(code))
            deadline = time.monotonic() + patience(2)
            while time.monotonic() < deadline:
                try:
                    heard = self.hear("idle", deadline)
                except AssertionError as silence:
                    [heard] = silence.args
                all_heard += heard
                if not heard or heard[-1][2].get("execution_state") != "idle" or heard[-1][1] not in sent:
                    continue
                ended = heard[-1][1]
                lines = [(parent, content) for kind, parent, content in all_heard if kind == "stream"]
                began = any(kind == "execute_input" and parent == ended for kind, parent, _ in all_heard)
                printed = any(parent == ended and content["name"] == "stdout" for parent, content in lines)
                if began and printed:
                    shown = [content for parent, content in lines if parent == ended or content["name"] == "stderr"]
                    return "".join(content["text"] for content in shown)
                break
        raise AssertionError(all_heard)


@contextmanager
def kernel(door: Door, code: str = "print(6 * 7)", answer: str = "42\n") -> Iterator[tuple[str, Tab]]:
    """A kernel that answers, and a tab on it."""
    found = api(door, "POST", "/api/kernels", {"name": "ir"})["id"]
    tab = Tab(door, found)
    assert tab.output(code) == answer
    yield found, tab
    tab.socket.close()
