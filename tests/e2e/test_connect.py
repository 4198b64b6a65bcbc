"""`future-kubernetes connect` on a real cluster: the page stays reachable when the pod is replaced."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from common.paths import REPO
from tests.e2e.conftest import Stack

pytestmark = pytest.mark.timeout(300)


def test_the_page_is_reached_again_after_the_pod_was_replaced(stack: Stack, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    said = tmp_path / "said"

    def answers() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
                return "password" in answer.read().decode()
        except OSError:
            return False

    with said.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "cli", "connect", "--no-browser", "--port", str(port)],
            cwd=REPO, env=stack.environment(), stdout=output, stderr=output,
        )  # fmt: skip
    try:
        stack.wait("the page", 60, answers)
        before = stack.scheduler()["metadata"]
        stack.kubectl("delete", "pod", before["name"], "--wait=false")
        stack.wait("the loss to be said", 60, lambda: "The connection was lost" in said.read_text())
        stack.scheduler(other_than=before["uid"])
        stack.wait("the connection to be back", 60, lambda: "Connected again." in said.read_text())
        assert answers()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert not answers()
    finally:
        process.kill()
        process.wait()
    assert stack.outputs()["password"] not in said.read_text()
