"""Runs on a real cluster: a project that plans on the workers, cut connections, a lost pod, and what follows."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.paths import REPO
from common.patience import patience
from tests.e2e.conftest import WORKERS, Stack

pytestmark = pytest.mark.timeout(300)

# Its arguments: the seconds between two lines of progress, and the exit status.
SCRIPT = f"""
library(future.apply)
arguments <- commandArgs(TRUE)
numbers <- scan("data/numbers.txt", quiet = TRUE)
future::plan(future.kubernetes::kubernetes, workers = {WORKERS})
for (step in 1:5) {{
  cat("step", step, "\\n")
  Sys.sleep(as.numeric(arguments[1]))
}}
found <- future_lapply(numbers, function(x) list(x^2, Sys.info()[["nodename"]]))
writeLines(format(vapply(found, `[[`, 0, 1L)), "out/squares.txt")
writeLines(unique(vapply(found, `[[`, "", 2L)), "out/pods.txt")
quit(status = as.integer(arguments[2]))
"""
PROGRESS = [f"step {step} \n" for step in range(1, 6)]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "analysis"
    (folder / "data").mkdir(parents=True)
    (folder / "out").mkdir()
    (folder / "main.R").write_text(SCRIPT)
    (folder / "data/numbers.txt").write_text(" ".join(map(str, range(1, 31))))
    return folder


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The command as `make up` leaves it: without a Pulumi CLI, and with the cluster's own kubectl."""
    with subprocess.Popen(
        [sys.executable, "-m", "cli", *arguments],
        cwd=REPO, env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.terminate()


def until_progress(process: subprocess.Popen[str]) -> None:
    """Returns when the script has printed its first line."""
    assert process.stdout is not None
    while (line := process.stdout.readline()) != PROGRESS[0]:
        assert line, "it ended before its first line of progress"


def command(*arguments: str, timeout: float = 200) -> subprocess.CompletedProcess[str]:
    with started(*arguments) as process:
        out, told = process.communicate(timeout=patience(timeout))
    return subprocess.CompletedProcess(arguments, process.returncode, out, told)


def run_named_in(told: str) -> str:
    found = re.search(r"\d{8}-\d{6}-[0-9a-f]{4}", told)
    assert found, told
    return found[0]


def release(stack: Stack) -> str:
    return str(stack.scheduler()["metadata"]["labels"]["app.kubernetes.io/instance"])


def test_project_runs_on_workers_and_its_status_is_passed_on(stack: Stack, project: Path) -> None:
    came: list[float] = []
    with started("run", str(project), "main.R", "--then", "destroy", "--", "1", "3") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            if line in PROGRESS:
                came.append(time.monotonic())
        told = process.stderr.read()
    assert process.returncode == 3, told
    assert len(came) == 5
    assert came[-1] - came[0] > 3, "progress comes as it is made"
    assert (project / "out/squares.txt").read_text().split() == [str(x**2) for x in range(1, 31)]
    assert len((project / "out/pods.txt").read_text().split()) == WORKERS
    assert "report.html (new)" in told, "also of a failure"
    report = (project / "report.html").read_text()
    assert f"<h1>Run {run_named_in(told)}: Rscript main.R 1 3</h1>" in report
    assert f"<dt>Futures</dt><dd>{WORKERS}<small>{WORKERS} done<" in report
    assert "CPU time</dt><dd>unknown" not in report
    assert "has events since" not in report
    # A failure leaves all as it is, for the script to be fixed.
    assert "kept" in told
    assert stack.pods("scheduler")
    inside = stack.kubectl("exec", f"deployment/{release(stack)}-scheduler", "--", "sh", "-c",
                           f"id -un; stat -c %U:%a ~/batch/{run_named_in(told)}")  # fmt: skip
    assert inside.split() == ["rstudio", "rstudio:700"]


def test_a_run_outlives_its_connection_and_its_command(stack: Stack, project: Path) -> None:
    with started("run", str(project), "main.R", "--", "2", "0") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        until_progress(process)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for child in children:
            os.kill(int(child), signal.SIGKILL)
        assert children
        assert process.stdout.readline() == PROGRESS[1], "a lost connection goes on where it was"
        process.send_signal(signal.SIGINT)
        told = process.stderr.read()
    assert process.returncode == 130
    assert "connection lost" in told
    run = run_named_in(told)
    assert f"attach {run}" in told
    assert f"stop {run}" in told
    assert re.search(rf"^{run} +running", command("runs").stdout, re.MULTILINE)
    assert not (project / "out/squares.txt").exists()
    attached = command("attach", run, "--results", str(project))
    assert attached.returncode == 0, attached.stderr
    assert [line for line in attached.stdout.splitlines(keepends=True) if line in PROGRESS] == PROGRESS
    assert len((project / "out/squares.txt").read_text().split()) == 30
    # Fetch again, as from another laptop, when it has ended.
    again = command("attach", run, "--results", str(project.parent / "other"))
    assert again.returncode == 0
    assert (project.parent / "other/out/squares.txt").read_text() == (project / "out/squares.txt").read_text()


def test_stop_ends_the_script(stack: Stack, project: Path) -> None:
    with started("run", str(project), "main.R", "--", "20", "0") as process:
        assert process.stderr is not None
        until_progress(process)
        while " on stack " not in (line := process.stderr.readline()):
            assert line
        run = run_named_in(line)
        assert command("stop", run).returncode == 0
        assert process.wait(patience(30)) == 143
        assert "was stopped" in process.stderr.read()
    left = stack.kubectl("exec", f"deployment/{release(stack)}-scheduler", "--", "ps", "-eo", "args")
    assert "main.R" not in left
    assert command("remove", run).returncode == 0
    assert run not in command("runs").stdout


def test_workers_are_given_back_after_a_success(stack: Stack, project: Path) -> None:
    try:
        done = command("run", str(project), "main.R", "--then", "release", "--", "0", "0")
        assert done.returncode == 0, done.stderr
        assert stack.replicas() == 0
    finally:
        stack.rscript(f"future.kubernetes::scale_workers({WORKERS})")
    assert len(stack.pods("worker")) == WORKERS


def test_scheduler_pod_that_ends_is_a_failure_of_its_own(stack: Stack, project: Path) -> None:
    (project / "main.R").write_text('writeLines("so far", "out/partial.txt"); cat("last words\n"); Sys.sleep(200)')
    with started("run", str(project), "main.R", "--then", "release") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "last words\n"
        stack.kubectl("delete", "pod", stack.scheduler()["metadata"]["name"], "--wait=false")
        told = process.stderr.read()
    assert process.returncode == 124, told
    assert "the run is lost: the scheduler pod ended during the run" in told
    assert (project / "out/partial.txt").read_text() == "so far\n"
    stack.wait("the workers' return", 60, lambda: f"N {WORKERS}" in stack.rscript(
        'library(future); plan(cluster, manual = TRUE, quiet = TRUE); cat("N", nbrOfWorkers())'))  # fmt: skip
    again = command("attach", run_named_in(told), "--results", str(project))
    assert again.returncode == 124
    assert again.stdout == "last words\n"


@pytest.mark.usefixtures("stack")
def test_the_project_of_a_run_is_there_for_its_futures(tmp_path: Path) -> None:
    project = tmp_path / "analysis"
    (project / "data").mkdir(parents=True)
    (project / "data" / "x.csv").write_text("a,b\n1,2\n")
    (project / "helper.R").write_text("twice <- function(x) 2 * x\n")
    (project / "main.R").write_text(
        """
        library(future.kubernetes)
        plan(kubernetes, workers = 1)
        found <- value(future({ source("helper.R"); twice(read.csv("data/x.csv")$b) }))
        writeLines(format(found), "found.txt")
        """
    )
    done = subprocess.run(
        [sys.executable, "-m", "cli", "run", str(project), "main.R"],
        cwd=REPO, capture_output=True, text=True, check=False, timeout=patience(200),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (project / "found.txt").read_text() == "4\n"
