"""A session on another machine: its packages, and its plan while the connection is away."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path
from typing import Any

from image.broker.journal import Journal
from image.broker.plans import AWAY_SECONDS, Plan, Range

from .conftest import Bed, wait_for
from .r_session import PlanSession

LAPTOP = -4711


def archive(name: str) -> bytes:
    """A package as R packs it."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as made:
        for path, content in ((f"{name}/R/{name}", b"code"), (f"{name}/DESCRIPTION", b"Package: p")):
            member = tarfile.TarInfo(path)
            member.size = len(content)
            made.addfile(member, io.BytesIO(content))
    return file.getvalue()


def send(session: PlanSession, folder: str, data: bytes, word: str = "package") -> None:
    session.socket.sendall(f"{word} {len(data)} {folder}\n".encode() + data)


def test_package_is_requested_once_for_each_worker_in_need(bed: Bed) -> None:
    bed.worker("w1")
    bed.worker("w2")
    with bed.plan(2, pid=LAPTOP) as plan:
        plan.listed("/Users/me/lib/p", "/Users/me/lib/q")
        for _ in range(2):
            plan.submit("want /Users/me/lib/p\nlibrary\nwant ")
        assert plan.hear() == (["want", "-", "15"], b"/Users/me/lib/p")
        send(plan, "/Users/me/lib/p", archive("p"))
        bodies = {plan.hear()[1] for _ in range(2)}
        assert bodies == {b"\n['p']\n/Users/me/lib/p\n/Users/me/lib/q\n"}


def test_reason_for_a_missing_package_reaches_r_and_is_forgotten(bed: Bed) -> None:
    bed.worker("w1")
    with bed.plan(pid=LAPTOP) as plan:
        plan.listed("/lib/p")
        for word, data, answer in (
            ("no-package", b"built for another platform", "built for another platform\n[]"),
            ("package", archive("p"), "\n['p']"),
        ):
            number = plan.submit("want /lib/p\nlibrary")
            assert plan.hear()[0][0] == "want"
            send(plan, "/lib/p", data, word)
            assert plan.result(number).rstrip("\n") == answer


INSTALLER = """#!/bin/sh
# Rscript -e PROGRAM NAME LIBRARY
echo "$3" >> "$(dirname "$0")/installed"
if [ "$3" = missing ]; then echo "package 'missing' is not available"; exit 1; fi
mkdir -p "$4/$3/Meta" && echo built > "$4/$3/Meta/package.rds"
"""


def test_package_of_another_platform_is_installed_in_the_pod_once(bed: Bed, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "Rscript").write_text(INSTALLER)
    (programs / "Rscript").chmod(0o755)
    bed.restart_broker(PATH=f"{programs}:{os.environ['PATH']}")
    bed.worker("w1")
    bed.worker("w2")
    with bed.plan(2, pid=LAPTOP) as plan:
        plan.listed("/lib/pkg", "/lib/missing", "/lib/x;y")
        for _ in range(2):
            plan.submit("want /lib/pkg\nread pkg/Meta/package.rds")
        assert plan.hear()[0][0] == "want"
        send(plan, "/lib/pkg", b"pkg", "build")
        found = [plan.hear() for _ in range(2)]
        assert {body for _, body in found} == {b"\nbuilt\n\n"}, found
        for folder, name, reason in (
            ("/lib/missing", b"missing", "could not install it: package 'missing' is not available"),
            ("/lib/x;y", b"x;y", "'x;y' is no name of a package"),
        ):
            number = plan.submit(f"want {folder}")
            assert plan.hear()[0][0] == "want"
            send(plan, folder, name, "build")
            assert reason in plan.result(number)
    assert (programs / "installed").read_text().split() == ["pkg", "missing"]


def test_session_on_another_machine_gets_nothing_of_the_scheduler(bed: Bed, tmp_path: Path) -> None:
    bed.worker("w1")
    (tmp_path / "p" / "Meta").mkdir(parents=True)
    (tmp_path / "p" / "Meta" / "package.rds").touch()
    with bed.plan(pid=LAPTOP) as plan:
        plan.libraries(tmp_path)  # what a session in the pod says
        assert plan.run("want ") == ""
        assert "in no library" in plan.run(f"want {tmp_path / 'p'}")


def test_results_and_questions_wait_while_the_laptop_is_away(bed: Bed, tmp_path: Path) -> None:
    bed.worker("w1")
    bed.worker("w2")
    plan = bed.plan(2, pid=LAPTOP)
    plan.listed("/lib/p")
    done, asks = plan.submit(f"until {tmp_path / 'go'}"), plan.submit("want /lib/p\nlibrary")
    assert plan.hear()[0][0] == "want"
    plan.socket.close()
    (tmp_path / "go").touch()
    wait_for(lambda: bed.state("w1") == "idle" or bed.state("w2") == "idle")
    with bed.plan(2, pid=LAPTOP, key=plan.key) as again:
        assert again.result(done) == "there\n"
        assert any(line.startswith("want -") for line in again.told) or again.hear()[0][0] == "want"
        send(again, "/lib/p", archive("p"))
        assert again.result(asks) == "\n['p']\n"


def test_results_outlive_a_broker_restart_while_laptop_is_away(bed: Bed) -> None:
    bed.worker("w1")
    plan = bed.plan(pid=LAPTOP)
    number = plan.submit("sleep 0.5")
    wait_for(lambda: bed.state("w1") == "busy")
    plan.socket.close()
    wait_for(lambda: bed.state("w1") == "idle")
    bed.restart_broker()
    with bed.plan(pid=LAPTOP, key=plan.key) as again:
        assert again.result(number) == "slept\n"


def test_session_away_for_over_a_day_does_not_come_back(tmp_path: Path) -> None:
    def plan(pid: int) -> Any:
        return Plan("key", pid, Range(1, 1), 0, Journal(tmp_path, "key", pid))

    laptop = plan(LAPTOP)
    assert not laptop.ended(1e9), "it is connected"
    laptop.away_since = 100.0
    assert not laptop.ended(100.0 + AWAY_SECONDS)
    assert laptop.ended(101.0 + AWAY_SECONDS)
    assert plan(2**22 + 1).ended(0.0), "one of this pod ends with its process"
