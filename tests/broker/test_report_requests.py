"""Requests for a report, the events that workers cause for it, and the report of a batch run."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

import pytest

from image.common import process

from .conftest import ROOT, Bed, wait_for


def asked(bed: Bed, request: str) -> dict[str, Any]:
    answer = bed.ask(f"report {request}")
    assert answer.startswith("ok "), answer
    return cast(dict[str, Any], json.loads(answer[3:]))


def test_session_has_a_report_of_its_own_futures(bed: Bed) -> None:
    bed.worker("a")
    with bed.plan() as plan:
        plan.object("f" * 64, b"z" * 2000)
        plan.result(plan.submit("sleep 0.5", label="my nap", needs="f" * 64))
    got = asked(bed, f"session:{os.getpid()} 60 - <My> report")
    assert "<h1>&lt;My&gt; report</h1>" in got["html"]
    assert "my nap" in got["html"]
    assert got["lines"][0].startswith("1 future in ")
    [started] = [event for event in json.loads(bed.ask("events")) if event["event"] == "started"]
    assert started["objects"] == 2000
    assert asked(bed, f"session:{os.getpid()} @{started['at'] - 60} -")["lines"] == got["lines"]
    late = asked(bed, f"session:{os.getpid()} @{started['at'] + 0.1} -")["html"]
    assert "1 future ended here and began before" in late
    none = asked(bed, "session:999999 60 -")
    assert none["html"] == ""
    assert "no future is known" in none["lines"][0]


def test_report_that_goes_back_before_the_brokers_start_says_so(bed: Bed) -> None:
    bed.worker("a")
    time.sleep(0.6)
    with bed.plan() as plan:
        plan.run("sleep 0")
    assert "has events since" not in asked(bed, f"session:{os.getpid()} 0.5 -")["html"]
    assert "has events since" in asked(bed, f"session:{os.getpid()} 600 -")["html"]


@pytest.mark.parametrize("request_", [
    "", "session:x 1 -", "session:1 @ -", "session:1 x -", "session:1 1 -1", "session:1 1 nan", "session:1 1 inf",
    "pod:1 1 -", "run: 1 -", "session:1 nan x",
])  # fmt: skip
def test_request_that_is_none_is_refused(bed: Bed, request_: str) -> None:
    assert bed.ask(f"report {request_}").startswith("error not understood")
    assert bed.ask("count 1") == "ok 0 0 0"


def test_cpu_time_of_a_future_is_in_its_event(bed: Bed) -> None:
    bed.worker("a")
    with bed.plan() as plan:
        plan.run("burn 0.4")
        plan.run("sleep 0.4")
    burnt, slept = (event["cpu"] for event in json.loads(bed.ask("events")) if event["event"] == "ended")
    assert 0.3 < burnt < 1
    assert slept < 0.2, "each future has its own"
    assert process.cpu_seconds(os.getpid()) == pytest.approx(math.fsum(os.times()[:4]), abs=0.2)
    assert process.cpu_seconds(1 << 30) is None


def test_batch_run_is_known_by_its_variable(bed: Bed, tmp_path: Path) -> None:
    run = "20261129-000000-abcd"
    bed.worker("a")
    pid = process.spawn(["sleep", "60"], {**os.environ, "FUTURE_KUBERNETES_BATCH_RUN": run})
    try:
        wait_for(lambda: process.run_of(pid) == run)
        with bed.plan(pid=pid) as plan:
            plan.run("sleep 0")
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    with bed.plan() as plan:
        plan.run("sleep 0")
    assert asked(bed, f"run:{run} 60 -")["lines"][0].startswith("1 future in ")
    assert process.run_of(os.getpid()) == ""
    write_report(tmp_path, run)
    assert "<h1>Run x: Rscript main.R</h1>" in (tmp_path / "out/report.html").read_text()
    assert "Cost</dt><dd>unknown" in (tmp_path / "out/report.html").read_text()
    # The next one takes its place, and never that of a file of the user's own.
    assert write_report(tmp_path, run, FUTURE_KUBERNETES_WORKER_PRICE="0.5") == ""
    assert "Cost</dt><dd>unknown" not in (tmp_path / "out/report.html").read_text()
    (tmp_path / "out/report.html").write_text("<html>my own</html>")
    assert "as 0.21" in write_report(tmp_path, run, FUTURE_KUBERNETES_WORKER_PRICE="cheap")
    assert (tmp_path / "out/report.html").read_text() == "<html>my own</html>"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"report.html", f"report-{run}.html"}
    assert process.run_of(1 << 30) == ""


def write_report(folder: Path, run: str, **environ: str) -> str:
    """Run the program that a batch run ends with; what it says."""
    (folder / "out").mkdir(exist_ok=True)
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from image.scheduler.report import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, run, str(int(time.time()) - 60), "Run x: Rscript\nmain.R"],
        cwd=folder / "out", env={"FUTURE_KUBERNETES_RUN": str(folder), **environ}, check=True, capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.stdout == ""
    return done.stderr


def test_run_without_future_or_broker_succeeds_without_a_report(bed: Bed, tmp_path: Path) -> None:
    assert write_report(tmp_path, "20261129-000000-none") == ""
    bed.broker.end()
    bed.broker.wait()
    assert "no report of this run's futures" in write_report(tmp_path, "20261129-000000-none")
    assert list((tmp_path / "out").iterdir()) == []
