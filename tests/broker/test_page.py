"""The live page: its files, and its stream of events."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from common.patience import patience
from image.broker.page import chart_library, server, words
from image.broker.page.words import cut

from .conftest import ROOT, Bed, wait_for
from .kubernetes_api import Api, pod


class Page:
    """An open page: the events that it gets, as a browser splits them."""

    def __init__(self, folder: Path, path: str = "/events", method: str = "GET") -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        self.socket.connect(str(folder / server.SOCKET))
        self.socket.sendall(f"{method} {path} HTTP/1.0\r\n\r\n".encode())
        self.stream = self.socket.makefile("rb")
        self.head = b"".join(iter(self.stream.readline, b"\r\n")).decode()
        self.workers: dict[str, list[Any]] = {}
        self.bars: list[list[Any]] = []
        self.times: list[float] = []
        self.last: dict[str, Any] = {}
        self.details: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()
        self.socket.close()

    @property
    def status(self) -> int:
        return int(self.head.split(" ")[1])

    def event(self) -> tuple[str, dict[str, Any]]:
        name = self.stream.readline().decode().removeprefix("event: ").strip()
        data = json.loads(self.stream.readline().decode().removeprefix("data: "))
        assert self.stream.readline() == b"\n"
        self.last = data
        self.details |= data
        self.workers |= {row[0]: row for row in data["workers"]}
        self.bars += data["bars"]
        self.times.append(data["at"])
        return name, data

    def until(self, what: Callable[[], Any], seconds: float = 10) -> Any:
        deadline = time.monotonic() + patience(seconds)
        while not (found := what()):
            assert time.monotonic() < deadline, self.details
            self.event()
        return found

    def ended(self, label: str) -> list[Any] | None:
        return next((bar for bar in self.bars if bar[5] == label and bar[3]), None)


@pytest.fixture
def bed_with() -> Iterator[Callable[..., Bed]]:
    """Starts a broker with a content of the chart library, or without the file."""
    with contextlib.ExitStack() as stack:

        def start(folder: Path, library: str | None) -> Bed:
            if library is not None:
                (folder / chart_library.NAME).write_text(library)
            bed = Bed(folder, FUTURE_KUBERNETES_CHARTS=str(folder))
            stack.callback(bed.stop)
            return bed

        yield start


@pytest.mark.parametrize(("library", "why"), [(None, "No such file"), ("", "an empty file")])
def test_page_is_served_though_image_lacks_chart_library(
    bed_with: Callable[..., Bed], tmp_path: Path, library: str | None, why: str
) -> None:
    bed = bed_with(tmp_path, library)
    [said] = [line for line in bed.broker.log().splitlines() if "no charts" in line]
    assert why in said
    assert "package libjs-dygraphs: build the image again" in said
    for path, status in ((f"/{chart_library.NAME}", 404), ("/", 200), ("/charts.js", 200)):
        with Page(tmp_path, path) as page:
            assert page.status == status, path


def test_build_refuses_an_image_without_the_chart_library(tmp_path: Path) -> None:
    dockerfile = (ROOT / "image/Dockerfile").read_text()
    assert re.search(rf"install-packages \\\n *apt [^\n]*\b{chart_library.PACKAGE}\b", dockerfile)
    [step] = re.findall(r"^RUN (python3 -I \S+/chart_library.py)$", dockerfile, re.M)
    place = "/usr/local/lib/future-kubernetes/future_kubernetes/"
    assert f"COPY broker/ {place}broker/" in dockerfile
    command = step.replace("python3", sys.executable).replace(place, f"{ROOT}/image/")

    def build() -> subprocess.CompletedProcess[str]:
        environ = {"FUTURE_KUBERNETES_CHARTS": str(tmp_path)}
        return subprocess.run(command.split(), env=environ, capture_output=True, text=True, check=False, timeout=30)

    refused = build()
    assert refused.returncode == 1
    assert "would have no charts" in refused.stderr
    assert f"package {chart_library.PACKAGE}" in refused.stderr
    (tmp_path / chart_library.NAME).write_text("chart")
    assert build().returncode == 0


def test_page_and_its_parts_are_served_and_nothing_beside_them(bed_with: Callable[..., Bed], tmp_path: Path) -> None:
    bed_with(tmp_path, "the library")
    with Page(tmp_path, f"/{chart_library.NAME}") as page:
        assert "Content-Type: text/javascript" in page.head
        assert page.stream.read() == b"the library"
    with Page(tmp_path, "/") as page:
        html = page.stream.read().decode()
    parts = [part.split('"')[0] for part in html.replace("href=", "src=").split('src="')[1:]]
    assert {"page.js", chart_library.NAME} <= set(parts)
    for part in parts:
        with Page(tmp_path, f"/{part}?v=1") as page:
            assert page.status == 200, part
            assert page.stream.read()
    for path in ("/feed.py", "/../server.py", "/static/page.js", "/nothing"):
        with Page(tmp_path, path) as page:
            assert page.status == 404, path
    with Page(tmp_path, "/", "POST") as page:
        assert page.status == 405


def test_page_names_no_other_host_and_no_inline_code(tmp_path: Path) -> None:
    for path in (Path(server.__file__).parent / "static").iterdir():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "//" not in text.replace("// ", "").replace("https", ""), path.name
        assert "innerHTML" not in text
        assert "style=" not in text


def test_socket_is_open_to_its_user_only(bed: Bed, tmp_path: Path) -> None:
    assert stat.S_IMODE((tmp_path / server.SOCKET).stat().st_mode) == 0o600


def test_task_is_a_bar_that_grows_and_soon_ends(bed: Bed, tmp_path: Path) -> None:
    bed.worker("a")
    with Page(tmp_path) as page, bed.plan() as plan:
        name, data = page.event()
        assert name == "all"
        assert [row[:3] for row in data["workers"]] == [["a", "node-of-a", "idle"]]
        flag = tmp_path / "flag"
        number = plan.submit(f"until {flag}", label="fit 3")
        [bar] = page.until(lambda: page.bars)
        assert (bar[1], bar[3], bar[5]) == ("a", 0, "fit 3")
        page.until(lambda: page.workers["a"][2] == "busy" and page.details["numbers"][1] == 1)
        assert page.workers["a"][5] == "fit 3"
        assert page.details["sessions"] == [[os.getpid(), "plan(kubernetes)", "1", 1, 0]]
        flag.touch()
        plan.result(number)
        end = page.until(lambda: page.ended("fit 3"))
        assert sum(at > end[3] for at in page.times) <= 1, "the next message has it"
        assert (end[0], end[2], end[4]) == (bar[0], bar[2], "done")
        assert page.last["numbers"][2] == 1


def test_only_changes_are_sent(bed: Bed, tmp_path: Path) -> None:
    bed.worker("a")
    bed.worker("b")
    with Page(tmp_path) as page:
        page.event()
        time.sleep(1)
        page.event()
        _, quiet = page.event()
        assert set(quiet) == {"at", "numbers", "workers", "gone", "bars"}
        assert not quiet["workers"]
        assert not quiet["bars"]
        bed.processes[-1].end()
        page.until(lambda: page.last.get("gone") == ["b"])


def test_label_of_any_kind_is_cut_to_one_short_line(bed: Bed, tmp_path: Path) -> None:
    bed.worker("a")
    with Page(tmp_path) as page, bed.plan() as plan:
        plan.result(plan.submit("sleep 0", label="<img src=x onerror=alert(1)>"))
        plan.result(plan.submit("sleep 0", label="x" * 6000))
        page.until(lambda: page.ended("<img src=x onerror=alert(1)>"))
        page.until(lambda: page.ended("x" * 79 + "…"))
    assert cut("two\nlines\t\r\n" + "y" * 10_000_000) == "two lines " + "y" * 69 + "…"


def test_loss_is_shown_with_its_reason_and_cure(bed: Bed, tmp_path: Path) -> None:
    bed.worker("a")
    with Page(tmp_path) as page, bed.plan() as plan:
        plan.result(plan.submit(f"once {tmp_path / 'died'}", label="dies once"))
        page.until(lambda: page.ended("dies once") and page.details["numbers"][4] == 1)
        [loss] = page.details["losses"]
        assert (loss["label"], loss["pod"]) == ("dies once", "a")
        assert "signal 9" in loss["reason"]
        assert "run the future by itself" in loss["cure"]
        assert {bar[4] for bar in page.bars if bar[3]} == {"lost", "done"}


def test_page_finds_its_task_again_after_the_broker_restarts(bed: Bed, tmp_path: Path) -> None:
    bed.worker("a")
    with bed.plan() as plan:
        flag = tmp_path / "flag"
        plan.submit(f"until {flag}", label="long")
        with Page(tmp_path) as page:
            _, before = page.event()
            page.until(lambda: page.bars)
            bar = page.bars[-1]
            bed.restart_broker()
            page.stream.read()  # to its end
        with Page(tmp_path) as page:
            _, after = page.event()
            assert after["started"] > before["started"]
            again = page.until(lambda: page.bars)[-1]
            assert again[:2] == bar[:2]
            flag.touch()
            page.until(lambda: any(found[3] and found[0] == bar[0] for found in page.bars))


def test_attached_worker_is_told_from_one_that_runs_a_task(bed: Bed, tmp_path: Path) -> None:
    bed.worker("a")
    with bed.attach(pid=os.getpid()), Page(tmp_path) as page:
        page.event()
        assert page.workers["a"][2] == "attached"
        assert page.details["sessions"] == [[os.getpid(), "plan(cluster)", "", 1, 0]]
        assert page.details["idle"]["goes"] == 0


def test_open_page_does_not_keep_unused_workers(scaled: Bed, api: Api, tmp_path: Path) -> None:
    scaled.worker("r-worker-a")
    api.pods = [pod("a", ready=False)]
    (tmp_path / "config" / "idleMinutes").write_text("0.05")
    with Page(tmp_path) as page:
        page.event()
        assert page.details["idle"]["minutes"] == 0.05
        assert 0 < page.details["idle"]["goes"] - page.last["at"] < 4
        wait_for(lambda: "scaling to 0 (idleMinutes)" in scaled.broker.log(), 8)


def test_missing_workers_are_explained(scaled: Bed, api: Api, tmp_path: Path) -> None:
    (tmp_path / "config" / "maxWorkers").write_text("5")
    with Page(tmp_path) as page, scaled.plan(2) as plan:
        plan.submit("sleep 0")
        page.until(lambda: "2 workers to come: 2 to be created" in page.details.get("waiting", ""), 15)
        assert page.details["maximum"] == 5


def test_memory_is_shown_on_a_cluster_without_metrics_server(scaled: Bed, api: Api, tmp_path: Path) -> None:
    scaled.worker("r-worker-a")
    api.pods = [pod("a")]
    with scaled.plan() as plan, Page(tmp_path) as page:
        plan.submit("sleep 600")
        page.until(lambda: page.workers.get("r-worker-a", [0] * 7)[6])
        page.until(lambda: api.read)
    assert not [path for path in api.read if path.startswith("/apis/metrics.k8s.io")]


def test_cost_follows_the_nodes_with_workers(scaled: Bed, api: Api, tmp_path: Path) -> None:
    for name, text in (("costIdle", "$0.40"), ("costMax", "$9.10"), ("costWorkerNode", "$0.215")):
        (tmp_path / "config" / name).write_text(text)
    api.pods = [pod("a"), pod("b")]
    with Page(tmp_path) as page:
        page.until(lambda: "$0.40 now, $0.40 when idle, $9.10 at most" in page.details.get("cost", ""))
        for name in ("a", "b"):
            scaled.worker(f"r-worker-{name}")
        page.until(lambda: "$0.83 now, $0.40 when idle, $9.10 at most" in page.details.get("cost", ""))
        (tmp_path / "config" / "costIdle").write_text("")
        page.until(lambda: page.details["cost"] == "")


@pytest.mark.parametrize(
    ("known", "nodes", "text"),
    [
        (("", "", ""), 3, ""),
        (("unknown", "unknown", "unknown"), 3, "Cost: unknown, as no price list was read."),
        (("$0.00", "$0.00", "$0.00"), 3, "Cost: $0.00 an hour, with any number of workers."),
        (("$1.00", "$3.00", "$0.250"), 4, "Cost an hour: $2.00 now, $1.00 when idle, $3.00 at most."),
        (("$1.00", "unknown", "unknown"), 4, "Cost an hour: unknown now, $1.00 when idle, unknown at most."),
        (("$1.00", "unknown", "unknown"), 0, "Cost an hour: $1.00 now, $1.00 when idle, unknown at most."),
        (
            ("at least $0.50 (unknown: NAT)", "at least $4.00 (unknown: NAT)", "$0.1"),
            2,
            "Cost an hour: at least $0.70 (unknown: NAT) now, at least $0.50 (unknown: NAT) when idle, "
            "at least $4.00 (unknown: NAT) at most.",
        ),
    ],
)
def test_cost_is_said_as_far_as_it_is_known(known: tuple[str, str, str], nodes: int, text: str) -> None:
    assert words.cost(*known, nodes) == text


@pytest.mark.parametrize(
    ("situation", "text"),
    [
        (words.Situation(0, 4, 4, 8), ""),
        (words.Situation(0, 3, 4, 8, "1 starting"), "1 worker to come: 1 starting"),
        (words.Situation(9, 1, 4, 8, "3 starting", "no node fits"), "3 workers cannot start: no node fits"),
        (words.Situation(0, 0, 2, 8, error="It is away."), "2 workers to come. It is away."),
        (words.Situation(12, 8, 8, 8), "12 futures wait for a free worker: all 8 that 'maxWorkers' allows are there"),
        (words.Situation(1, 4, 4, 8), "1 future waits for a free worker"),
        (words.Situation(1, 0, 0, 8), "1 future waits and no worker is wanted: see the scheduler's log"),
    ],
)  # fmt: skip
def test_what_is_waited_for_is_said_in_words(situation: words.Situation, text: str) -> None:
    assert words.waiting(situation) == text
