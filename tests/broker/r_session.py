"""An R session's connections to the broker, in attach mode and in task mode, in bytes."""

from __future__ import annotations

import itertools
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Self

from image.common import protocol

if TYPE_CHECKING:
    from .conftest import Bed


class Session:
    """An R session's connection, in bytes."""

    lease = pod = node = ""

    def __init__(self, port: int, greeting: str | None = f"protocol {protocol.VERSION}") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.banner = self.line()
        if greeting is not None:
            self.send(greeting)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, line: str) -> None:
        self.socket.sendall(line.encode() + b"\n")

    def line(self) -> str:
        line = b""
        while not line.endswith(b"\n"):
            piece = self.socket.recv(1)
            if not piece:
                raise EOFError(line)
            line += piece
        return line.decode().rstrip("\n")

    def call(self, line: str) -> str:
        """Call the program that plays R."""
        self.send(line)
        return self.line()

    def ended(self, seconds: float) -> bool:
        """True if the other end closes within ``seconds``."""
        self.socket.settimeout(seconds)
        try:
            return self.socket.recv(1) == b""
        except TimeoutError:
            return False
        except OSError:
            return True


class PlanSession(Session):
    """An R session's connection in task mode. Tasks are programs of fake_r.py."""

    keys = itertools.count()

    def __init__(
        self, bed: Bed, maximum: int, *, minimum: int | None = None, retries: int = 2, pid: int = 0, key: str = ""
    ) -> None:
        super().__init__(bed.ports["sessions"])
        self.key = key or f"key{next(self.keys)}"
        self.number = 0
        self.told: list[str] = []
        self.values: dict[str, bytes] = {}
        self.ready = set[str]()
        self.send(f"open {self.key} {pid or os.getpid()} {maximum if minimum is None else minimum} {maximum} {retries}")
        self.opened = self.line()

    def submit(self, program: str, number: int | None = None, label: str = "", needs: str = "-") -> int:
        """Send a task; its number."""
        self.number = self.number + 1 if number is None else number
        data = program.encode()
        self.socket.sendall(f"submit {self.number} {len(data)} {needs} {label}\n".encode() + data)
        return self.number

    def object(self, name: str, data: bytes) -> None:
        """Send a large object."""
        self.socket.sendall(f"object {name} {len(data)}\n".encode() + data)

    def libraries(self, *own: Path, image: Path | None = None) -> None:
        """Say where this session's R has packages."""
        text = "\n".join([f"image {image}", *(f"own {path}" for path in own)]).encode()
        self.socket.sendall(f"libraries {len(text)}\n".encode() + text)

    def listed(self, *packages: str, size: int = 1) -> None:
        """Say which packages a session on another machine has."""
        text = "\n".join(f"package 1 {size} {package}" for package in packages).encode()
        self.socket.sendall(f"libraries {len(text)}\n".encode() + text)

    def hear(self) -> tuple[list[str], bytes]:
        """The next line that comes, in words, and its body."""
        words = self.line().split(" ")
        body = b""
        if words[0] == "ready":
            self.ready.add(words[1])
        elif words[0] == "value-file":
            self.values[words[1]] = Path(words[3]).read_bytes()
        elif words[0] not in ("again", "unknown", "error", "forget"):
            left = int(words[-1])
            while left:
                piece = self.socket.recv(min(left, 1 << 20))
                if not piece:
                    raise EOFError(words)
                body += piece
                left -= len(piece)
        return words, body

    def result(self, number: int, word: str = "done") -> str:
        """The result of a task, past all that comes before it; what that was is in ``told``."""
        while True:
            words, body = self.hear()
            if words[:2] == [word, str(number)]:
                return body.decode()
            self.told.append(" ".join(words))

    def run(self, program: str) -> str:
        """The result of a program, without the newline at its end."""
        return self.result(self.submit(program)).rstrip("\n")
