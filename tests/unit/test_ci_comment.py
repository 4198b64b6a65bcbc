"""Comments on a pull request, by the real script against a server that answers as GitHub's REST API does."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cloud_mocks import ROOT

TOKEN = "a-token-of-this-job"


class Forge(ThreadingHTTPServer):
    """Comments of pull request 7, kept as GitHub keeps them."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.comments: list[dict[str, Any]] = []
        self.requests: list[str] = []

    def add(self, body: str, kind: str = "Bot") -> None:
        self.comments.append({"id": 1000 + len(self.comments), "body": body, "user": {"type": kind}})

    def bodies(self) -> list[str]:
        return [comment["body"] for comment in self.comments]


class Handler(BaseHTTPRequestHandler):
    server: Forge

    def log_message(self, *_arguments: object) -> None:
        """Nothing: the test's output stays its own."""

    def answer(self) -> None:
        assert self.headers["Authorization"] == f"Bearer {TOKEN}"
        self.server.requests.append(f"{self.command} {self.path}")
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length))["body"] if length else ""
        result: object = {}
        if self.command == "GET":
            asked = re.fullmatch(r"/repos/team/r/issues/7/comments\?per_page=100&page=(\d+)", self.path)
            assert asked
            result = self.server.comments[100 * (int(asked[1]) - 1) :][:100]
        elif self.command == "POST":
            assert self.path == "/repos/team/r/issues/7/comments"
            self.server.add(body)
        else:
            number = int(self.path.removeprefix("/repos/team/r/issues/comments/"))
            next(each for each in self.server.comments if each["id"] == number)["body"] = body
        sent = json.dumps(result).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    do_GET = do_POST = do_PATCH = answer  # noqa: N815


@pytest.fixture
def forge() -> Iterator[Forge]:
    server = Forge()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def publish(forge: Forge, folder: Path, *stacks: str) -> None:
    environment = {
        **os.environ,
        "GITHUB_API_URL": f"http://127.0.0.1:{forge.server_port}",
        "GITHUB_REPOSITORY": "team/r",
        "GITHUB_RUN_ID": "5",
        "GITHUB_SERVER_URL": "https://github.example.org",
        "GITHUB_TOKEN": TOKEN,
    }
    entries = json.dumps([{"stack": stack, "extra": ""} for stack in stacks])
    # As the workflow runs it: a file, by a Python without this project's packages.
    command = [sys.executable, "-I", str(ROOT / "ci" / "comment.py"), "7", str(folder), entries]
    subprocess.run(command, env=environment, check=True, timeout=60)


def test_first_run_adds_a_stacks_comment_and_later_ones_edit(forge: Forge, tmp_path: Path) -> None:
    (tmp_path / "gke-team.md").write_text("first\n")
    (tmp_path / "eks-team.md").write_text("other\n")
    publish(forge, tmp_path, "gke-team", "eks-team")
    assert len(forge.comments) == 3  # dev's too
    (tmp_path / "gke-team.md").write_text("second\n")
    publish(forge, tmp_path, "gke-team", "eks-team")
    assert len(forge.comments) == 3  # dev's too
    mine = next(body for body in forge.bodies() if "gke-team" in body)
    assert "second" in mine
    assert "first" not in mine
    assert "https://github.example.org/team/r/actions/runs/5" in mine


def test_a_comment_is_found_behind_a_hundred_others(forge: Forge, tmp_path: Path) -> None:
    for _ in range(100):
        forge.add("a word", "User")
    forge.add("<!-- future-kubernetes preview of gke-team -->\nold")
    (tmp_path / "gke-team.md").write_text("new\n")
    publish(forge, tmp_path, "gke-team")
    assert "new" in forge.bodies()[100]
    assert len([body for body in forge.bodies() if "gke-team" in body]) == 1


def test_a_persons_comment_that_quotes_the_mark_stays(forge: Forge, tmp_path: Path) -> None:
    quoted = "<!-- future-kubernetes preview of gke-team -->\nquoted"
    forge.add(quoted, "User")
    (tmp_path / "gke-team.md").write_text("new\n")
    publish(forge, tmp_path, "gke-team")
    assert forge.bodies()[0] == quoted
    assert len([body for body in forge.bodies() if "gke-team" in body]) == 2


def test_a_stack_that_is_not_touched_any_more_says_so(forge: Forge, tmp_path: Path) -> None:
    (tmp_path / "gke-team.md").write_text("first\n")
    publish(forge, tmp_path, "gke-team")
    publish(forge, tmp_path)
    assert "Not touched by this change any more" in forge.bodies()[0]


def test_stack_dev_is_reported_for_every_change(forge: Forge, tmp_path: Path) -> None:
    (tmp_path / "dev.md").write_text("first\n")
    publish(forge, tmp_path)
    (tmp_path / "dev.md").write_text("second\n")
    publish(forge, tmp_path)
    (body,) = forge.bodies()
    assert body.startswith("<!-- future-kubernetes preview of dev -->\nsecond\n")


def test_preview_without_a_report_says_it_did_not_finish(forge: Forge, tmp_path: Path) -> None:
    publish(forge, tmp_path, "gke-team")
    assert "did not finish" in forge.bodies()[0]


def test_a_report_over_githubs_limit_is_cut(forge: Forge, tmp_path: Path) -> None:
    (tmp_path / "gke-team.md").write_text("x" * 100_000)
    publish(forge, tmp_path, "gke-team")
    assert len(forge.bodies()[0]) < 65_536
