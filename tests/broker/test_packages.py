"""Packages of a session's libraries, with real broker and agents: what travels, and when a fresh R is needed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from image.broker.packages import pack

from .conftest import Bed, wait_for


def install(library: Path, name: str, content: str = "code") -> Path:
    """A folder like that of an installed package; installing again makes a new one, as R does."""
    folder = library / name
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "Meta").mkdir(parents=True)
    (folder / "R").mkdir()
    (folder / "R" / name).write_text(content)
    (folder / "Meta" / "package.rds").write_text(content)
    return folder


@pytest.fixture
def library(tmp_path: Path) -> Path:
    return tmp_path / "home library"


def test_package_that_r_looks_for_comes_from_the_sessions_library(bed: Bed, library: Path) -> None:
    a, b = install(library, "a.pkg", "of a"), install(library, "b")
    (library / "no-package").mkdir()
    bed.worker("w1")
    with bed.plan() as plan:
        plan.libraries(library)
        assert plan.run("want ") == f"{a}\n{b}"
        assert plan.run(f"want {a}\nread a.pkg/R/a.pkg") == "\nof a"
        assert plan.run("library") == "['a.pkg']", "it stays, and what nobody looked for did not travel"


@pytest.mark.parametrize("path", ["/etc", "../../etc", "a/../../..", "/proc/self", "x\ty"])
def test_nothing_but_packages_of_the_libraries_can_be_had(bed: Bed, library: Path, path: str) -> None:
    install(library, "a")
    bed.worker("w1")
    with bed.plan() as plan:
        plan.libraries(library)
        assert plan.run(f"want {path}\nlibrary") == "it is in no library of the session any more\n[]"


def test_only_a_changed_package_needs_fresh_r_with_empty_library(bed: Bed, library: Path) -> None:
    a = install(library, "a", "one")
    bed.worker("w1")
    with bed.plan() as plan:
        plan.libraries(library)
        first = plan.run(f"want {a}\npid")
        install(library, "b")
        plan.libraries(library)
        assert plan.run("pid\nlibrary") == f"{first.strip()}\n['a']", "a further package is no reason"
        install(library, "a", "two")
        plan.libraries(library)
        pid, packages = plan.run("pid\nlibrary").splitlines()
        assert pid != first.strip()
        assert packages == "[]"
        assert plan.run(f"want {a}\nread a/R/a") == "\ntwo"
        shutil.rmtree(a)
        plan.libraries(library)
        assert plan.run("library") == "[]", "one that was removed is not there any more"


def test_new_package_hiding_one_of_the_image_needs_fresh_r(bed: Bed, library: Path, tmp_path: Path) -> None:
    install(tmp_path / "image", "dplyr")
    bed.worker("w1")
    with bed.plan() as plan:
        first = plan.run("pid")  # a session without packages of its own says nothing of its libraries
        install(library, "dplyr")
        plan.libraries(library, image=tmp_path / "image")
        assert plan.run("pid") != first


def test_two_sessions_have_each_its_own_version_on_one_worker(bed: Bed, tmp_path: Path) -> None:
    one, two = install(tmp_path / "one", "a", "first"), install(tmp_path / "two", "a", "second")
    bed.worker("w1")
    with bed.plan() as mine, bed.plan() as other:
        mine.libraries(one.parent)
        other.libraries(two.parent)
        assert mine.run(f"want {one}\nread a/R/a") == "\nfirst"
        assert other.run(f"library\nwant {two}\nread a/R/a") == "[]\n\nsecond"
        assert mine.run(f"library\nwant {one}\nread a/R/a") == "[]\n\nfirst"


def test_many_workers_that_ask_at_once_get_the_package(bed: Bed, library: Path) -> None:
    a = install(library, "a", "x" * 3_000_000)
    for i in range(4):
        bed.worker(f"w{i}")
    with bed.plan(4) as plan:
        plan.libraries(library)
        for _ in range(4):
            plan.submit(f"want {a}\nlibrary")
        assert {plan.hear()[1] for _ in range(4)} == {b"\n['a']\n"}


def test_worker_that_comes_later_gets_the_package_too(bed: Bed, library: Path, tmp_path: Path) -> None:
    a = install(library, "a", "of a")
    bed.worker("w1")
    with bed.plan(2) as plan:
        plan.libraries(library)
        first = plan.run(f"want {a}\nread a/R/a\npid")
        held = plan.submit(f"until {tmp_path}/released")
        wait_for(lambda: bed.state("w1") == "busy")
        bed.worker("w2")
        *there, pid = plan.run(f"library\nwant {a}\nread a/R/a\npid").splitlines()
        assert there == ["[]", "", "of a"]
        assert pid != first.splitlines()[-1], "the other worker's R"
        (tmp_path / "released").touch()
        assert plan.result(held) == "there\n"


def test_a_waiting_worker_gets_its_package_after_a_broker_restart(bed: Bed, library: Path) -> None:
    a = install(library, "a")
    bed.worker("w1")
    plan = bed.plan()
    number = plan.submit(f"want {a}\nlibrary")  # the broker waits for the session to say where
    wait_for(lambda: bed.state("w1") == "busy")
    bed.restart_broker()
    wait_for(lambda: bed.state("w1") == "busy")
    with bed.plan(key=plan.key) as again:
        again.libraries(library)
        assert again.result(number) == "\n['a']\n"
        assert bed.ask("events").count('"lost"') == 0


def test_a_package_that_cannot_be_read_is_an_answer_too(bed: Bed, library: Path) -> None:
    a = install(library, "a")
    bed.worker("w1")
    with bed.plan() as plan:
        plan.libraries(library)
        assert plan.run("want ") == str(a)
        shutil.rmtree(a)
        assert "the scheduler's pod could not read it" in plan.run(f"want {a}\nlibrary")
        install(library, "a")
        plan.libraries(library)
        assert plan.run(f"want {a}\nlibrary") == "\n['a']", "a failure is not remembered"


def test_only_the_needed_package_of_a_large_library_is_packed(bed: Bed, library: Path) -> None:
    bed.broker_prefix = ("prlimit", "--fsize=1000000")
    bed.restart_broker()
    large, small = install(library, "large"), install(library, "small")
    with (large / "data").open("wb") as file:
        file.truncate(2 << 30)
    bed.worker("w1")
    with bed.plan() as plan:
        plan.libraries(library)
        assert plan.run(f"want {small}\nlibrary") == "\n['small']"
        assert "the scheduler's pod could not read it" in plan.run(f"want {large}\nlibrary")
        assert plan.run("library") == "['small']"


def test_worker_whose_disk_is_full_reports_it_and_goes_on(bed: Bed, library: Path) -> None:
    a = install(library, "a", "x" * 3_000_000)
    small = (
        "unshare",
        "-m",
        "--propagation",
        "private",
        "sh",
        "-c",
        'mount -t tmpfs -o size=1m none /mnt && exec "$@"',
        "-",
    )
    if os.geteuid() != 0:
        pytest.skip("a disk of its own needs root")
    bed.worker("w1", small, TMPDIR="/mnt")
    with bed.plan() as plan:
        plan.libraries(library)
        answer = plan.run(f"want {a}\nlibrary")
        assert answer.startswith("the worker's pod could not keep it: [Errno 28]")
        assert answer.endswith("\n[]"), "nothing half-made"
        assert plan.run("echo 0") == ""


def test_package_by_link_is_sent_without_links_that_leave_it(tmp_path: Path) -> None:
    real = install(tmp_path / "cache", "a")
    (real / "secret").symlink_to("/etc/passwd")
    (real / "up").symlink_to("../../elsewhere")
    (real / "same").symlink_to("R")
    os.mkfifo(real / "pipe")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "a").symlink_to(real)
    archive = tmp_path / "a.tar"
    archive.write_bytes(b"".join(pack(tmp_path / "lib" / "a").pieces()))
    shutil.unpack_archive(archive, tmp_path / "out", filter="data")
    assert sorted(path.name for path in (tmp_path / "out" / "a").iterdir()) == ["Meta", "R", "same"]


def test_events_say_how_much_memory_a_task_needed(bed: Bed) -> None:
    bed.worker("w1")
    with bed.plan() as plan:
        plan.run("hold 200000000")
        plan.run("sleep 0")
    ends = [event for event in json.loads(bed.ask("events")) if event["event"] == "ended"]
    assert ends[0]["peak_mib"] > 190
    assert 0 < ends[1]["peak_mib"] < 190
