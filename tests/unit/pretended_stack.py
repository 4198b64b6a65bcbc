"""A stack whose kubectl runs the agent on this machine, and cuts connections on demand.

`Rscript` is a shell here: these tests are about files, output and exit status, not about R.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from cli import client, main, runs, stack
from common.kubectl import Kubectl

PYTHON = os.path.realpath(sys.executable)
KUBECTL = '''#!{python} -IS
"""Of a request's faults the first is made: cut N (bytes of answer), starve N (bytes of input), hang or refuse."""
import json, os, pathlib, subprocess, sys, threading, time
folder = pathlib.Path({folder!r})
if "exec" not in sys.argv:
    print((folder / "answer").read_text(), end="")
    sys.exit()
stdin = sys.stdin.buffer
head = stdin.readline()  # the agent's sources
line = stdin.readline()
faults = json.loads((folder / "faults").read_text())
fault = (faults.get(json.loads(line)["do"]) or [""]).pop(0).split()
(folder / "faults").write_text(json.dumps(faults))
if fault[:1] == ["refuse"]:
    sys.exit("error: dial tcp: i/o timeout")
if fault[:1] == ["hang"]:
    time.sleep(600)
environment = {{**os.environ, "HOME": str(folder / "home"), "PATH": str(folder / "bin") + ":" + os.environ["PATH"]}}
command = sys.argv[sys.argv.index("--") + 1:]
child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, cwd=folder / "home")
def feed():
    try:
        child.stdin.write(head + line)
        left = int(fault[1]) if fault[:1] == ["starve"] else 1 << 60
        while left and (data := stdin.read1(min(left, 65536))):
            child.stdin.write(data)
            left -= len(data)
        child.stdin.close()
    except BrokenPipeError:
        pass
threading.Thread(target=feed, daemon=True).start()
left = int(fault[1]) if fault[:1] == ["cut"] else 1 << 60
while left and (data := child.stdout.read1(min(left, 65536))):
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
    left -= len(data)
child.stdout.close()
if not left:
    child.kill()
    sys.exit("error: connection reset by peer")
sys.exit(child.wait())
'''


@dataclass
class Place:
    """A pretended stack: its home, the faults that its kubectl is to make, and a project folder on the laptop."""

    folder: Path
    project: Path
    output: pytest.CaptureFixture[bytes]
    told: bytes = b""
    printed: bytes = b""

    @property
    def runs(self) -> list[Path]:
        return sorted((self.folder / "home/batch").glob("*"))

    def script(self, text: str) -> None:
        (self.project / "main.R").write_text(text)

    def faults(self, **faults: list[str]) -> None:
        (self.folder / "faults").write_text(json.dumps(faults))

    def batch(self, *arguments: str) -> int:
        status = main.main(arguments)
        captured = self.output.readouterr()
        self.printed, self.told = captured.out, captured.err
        return status

    def run(self, *options: str) -> int:
        return self.batch("run", str(self.project), "main.R", *options)

    def destroyed(self) -> bool:
        return (self.folder / "destroyed").exists()


@pytest.fixture
def place(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Place:
    folder = tmp_path / "pod"
    (folder / "home").mkdir(parents=True)
    (folder / "bin").mkdir()
    (folder / "answer").write_text('{"items": []}')
    for path, text in (
        ("kubectl", KUBECTL.format(python=PYTHON, folder=str(folder))),
        ("bin/Rscript", '#!/bin/sh\nexec sh "$@"\n'),
    ):
        (folder / path).write_text(text)
        (folder / path).chmod(0o755)
    (folder / "bin/python3").symlink_to(PYTHON)
    project = tmp_path / "analysis"
    project.mkdir()
    (project / "input").write_text("42\n")
    pretended = stack.Stack(
        "team-a", Kubectl(str(folder / "kubectl"), folder / "kubeconfig", "team-a"), "future",
        "pulumi up --stack team-a", ("sh", "-c", f"touch {folder / 'destroyed'}"),
    )  # fmt: skip

    @contextmanager
    def opened(name: str) -> Iterator[stack.Stack]:
        assert name in ("dev", "team-a")
        yield pretended

    monkeypatch.setattr(stack, "opened", opened)
    found = Place(folder, project, capfdbinary)
    found.faults()
    found.script("cat input > out; echo done")
    return found


@contextmanager
def once_printed(act: Callable[[], object]) -> Iterator[None]:
    """Does something when the script's first output has been shown."""
    shown = runs._show
    acted: list[bool] = []

    def show(data: bytes) -> None:
        shown(data)
        if data and not acted:
            acted.append(True)
            act()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(runs, "_show", show)
        yield
    assert acted


def leave_as_soon_as_started(place: Place) -> None:
    def leave(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(client.Client, "follow", leave)
        assert place.run() == 130
