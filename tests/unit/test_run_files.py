"""Files of a run: those copied to the stack, and the results that come back."""

from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cli import client, files, pod_files
from tests.unit.pretended_stack import Place, once_printed, place

__all__ = ["place"]

pytestmark = pytest.mark.timeout(60)


REPORT = """#!/bin/sh
echo "$@" >&2
test -e report.html && exit 1
echo "report $2 of $1" > report.html
"""


@pytest.mark.parametrize("status", [0, 3])
def test_report_is_a_result_in_time_even_of_failures(place: Place, status: int) -> None:
    (place.folder / "bin/future-report").write_text(REPORT.replace("test -e", "sleep 0.5; test -e"))
    (place.folder / "bin/future-report").chmod(0o755)
    place.script(f"echo $FUTURE_KUBERNETES_BATCH_RUN; exit {status}")
    began = time.time()
    assert place.run("--", "two words") == status
    run = place.runs[0].name
    assert place.printed.startswith(f"{run}\n{run} ".encode())
    assert f" Run {run}: Rscript main.R two words\n".encode() in place.printed
    assert b"report.html (new)" in place.told
    words = (place.project / "report.html").read_text().split()
    assert words[-1] == run
    assert int(began) <= int(words[1]) <= time.time(), "seconds, as date +%s says them"


def test_failing_report_keeps_the_status_and_stopped_runs_have_one(place: Place) -> None:
    (place.folder / "bin/future-report").write_text(REPORT)
    (place.folder / "bin/future-report").chmod(0o755)
    (place.project / "report.html").write_text("mine")
    place.script("exit 4")
    assert place.run() == 4
    assert (place.project / "report.html").read_text() == "mine"
    (place.project / "report.html").unlink()
    (failed,) = place.runs
    place.script("echo here; sleep 30")

    def stop() -> None:
        (running,) = set(place.runs) - {failed}  # runs of one second are in no order
        place.batch("stop", running.name)

    with once_printed(stop):
        assert place.run() == 143
    assert (place.project / "report.html").exists()


def test_results_go_to_a_folder_of_their_own(place: Place, tmp_path: Path) -> None:
    assert place.run("--results", str(tmp_path / "results/of/this")) == 0
    assert (tmp_path / "results/of/this/out").read_text() == "42\n"
    assert not (place.project / "out").exists()


def test_changed_input_with_old_size_and_time_is_a_result(place: Place) -> None:
    place.script("touch -r input mark; echo 43 > input; touch -r mark input")
    assert place.run() == 0
    assert (place.project / "input").read_text() == "43\n"
    assert b"input (replaced)" in place.told


def test_a_file_changed_here_during_the_run_stays(place: Place) -> None:
    place.script(f"echo theirs > input; sleep 0.1; echo mine > {place.project}/input")
    assert place.run() == 0
    assert (place.project / "input").read_text() == "mine\n"
    run = place.runs[0].name
    assert (place.project / f"input.{run}").read_text() == "theirs\n"
    assert f"input.{run} (kept apart".encode() in place.told


def test_project_larger_than_the_home_is_refused_before_copying(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    text = client.AGENT.replace(b"shutil.disk_usage(Path.home()).free", b"5")
    monkeypatch.setattr(client, "AGENT", text)
    assert place.run() == 125
    for word in (b"5 B free", b"homeGiB", b" remove RUN", b".batchignore"):
        assert word in place.told
    assert place.runs == []


def test_what_is_left_out_and_what_links_lead_to(place: Place, tmp_path: Path) -> None:
    for path in (
        ".git/config",
        "library/.git/hooks/post-checkout",
        "renv/library/a/b",
        "renv/activate.R",
        ".Rproj.user/x",
        "data/big.csv",
        "tmp/x",
        "a.log",
    ):
        (place.project / path).parent.mkdir(parents=True, exist_ok=True)
        (place.project / path).touch()
    (place.project / "empty").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/far").write_text("linked")
    (place.project / "link").symlink_to(tmp_path / "elsewhere")
    (place.project / "loop").symlink_to(place.project)
    (place.project / "nowhere").symlink_to("missing")
    (place.project / "deep").mkdir()
    (place.project / "deep/b.log").touch()
    (place.project / "deep/kept.log").touch()
    (place.project / ".batchignore").write_text("# large\ndata/**/*.csv\n/tmp/\n*.log\n!kept.log\n")
    place.script(
        'find . -type f | sort; find . -type d -name empty; cat link/far; echo " $RENV_CONFIG_AUTOLOADER_ENABLED"'
    )
    assert place.run() == 0
    assert place.printed.decode().split() == [
        "./.batchignore", "./deep/kept.log", "./input", "./link/far", "./main.R", "./renv/activate.R", "./empty",
        "linked", "FALSE",
    ]  # fmt: skip
    assert b"not copied: nowhere" in place.told


def test_an_unreadable_file_is_named_before_anything_is_copied(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = PermissionError(13, "Permission denied", str(place.project / "input"))
    opened: Callable[..., object] = Path.open

    def refused(path: Path, *arguments: object, **named: object) -> object:
        if path.name == "input":
            raise reason
        return opened(path, *arguments, **named)

    monkeypatch.setattr(Path, "open", refused)
    assert place.run() == 125
    assert b"input cannot be read: Permission denied" in place.told
    assert place.runs == []


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("../out", tarfile.REGTYPE),
        ("/tmp/out", tarfile.REGTYPE),
        ("a/../../out", tarfile.REGTYPE),
        ("out", tarfile.SYMTYPE),
        ("sub/.GIT/hooks/post-checkout", tarfile.REGTYPE),
    ],
)
def test_nothing_is_unpacked_outside_of_its_folder(tmp_path: Path, name: str, kind: bytes) -> None:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as tar:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = kind, "/etc"
        tar.addfile(entry)
    written.seek(0)
    with pytest.raises(pod_files.AgentError):
        pod_files.unpack(written, tmp_path / "inside")
    assert [path.name for path in tmp_path.rglob("*")] == ["inside"]


def test_sizes_are_as_people_read_them() -> None:
    assert [files.in_bytes(size) for size in (0, 999, 1500, 2.5e6, 3e9, 4e12)] == [
        "0 B", "999 B", "1.5 kB", "2.5 MB", "3.0 GB", "4000.0 GB",
    ]  # fmt: skip
