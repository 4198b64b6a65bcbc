"""Files of a session's folder: bundles become a folder on the worker, as they arrive."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import struct
from pathlib import Path

import pytest

from tests.broker.conftest import Bed, wait_for
from tests.broker.r_session import PlanSession

pytestmark = pytest.mark.timeout(60)


def bundle(folder: Path, serial: int, *records: bytes) -> bytes:
    return record("folder", serial, name=os.fsencode(folder)) + b"".join(records)


def record(*words: str | int, name: bytes, content: bytes = b"") -> bytes:
    return " ".join(map(str, [*words, len(name)])).encode() + b"\n" + name + content


def piece(name: bytes, content: bytes, at: int = 0, mode: int = 0o644) -> bytes:
    return record("file", len(content), at, mode, 1_700_000_000_500_000, name=name, content=content)


def note(plan: PlanSession, *needs: str) -> tuple[str, str, list[str]]:
    """The reason why the files are missing, their place, and the names of the bundles."""
    reason, place, *names = plan.result(plan.submit("note", needs=",".join(needs))).split("\n")
    return reason, place, names[:-1]


def test_bundles_become_the_sessions_folder_at_its_own_path(bed: Bed, tmp_path: Path) -> None:
    bed.worker("w1")
    folder, latin1, large = tmp_path / "a b\xfc", b"f\xfcr", os.urandom(700_000)
    with bed.plan() as plan:
        first = piece(b"data/a.txt", b"one", mode=0o754), piece(latin1, b"")
        plan.object("files0", bundle(folder, 0, *first, piece(b"large", large[:300_000], mode=0o400)))
        plan.object("files1", bundle(folder, 1, piece(b"large", large[300_000:], 300_000, 0o400)))
        assert note(plan, "files0", "files1") == ("", str(folder), ["files0", "files1"])
        assert (folder / "data/a.txt").read_text() == "one"
        status = (folder / "data/a.txt").stat()
        assert (stat.S_IMODE(status.st_mode), status.st_mtime_ns) == (0o754, 1_700_000_000_500_000_000)
        assert (folder / "large").read_bytes() == large
        assert sorted(os.listdir(os.fsencode(folder))) == [b"data", latin1, b"large"]
        (folder / "data/a.txt").unlink()
        (folder / "data/a.txt").symlink_to(tmp_path / "elsewhere")  # as a future may
        plan.object("files2", bundle(folder, 2, record("remove", name=latin1), piece(b"data/a.txt", b"two")))
        assert note(plan, "files0", "files1", "files2")[2] == ["files0", "files1", "files2"]
        assert (folder / "data/a.txt").read_text() == "two"
        assert not (tmp_path / "elsewhere").exists()
        assert sorted(os.listdir(folder)) == ["data", "large"]
    with bed.plan() as other:
        assert other.run("sleep 0") == "slept"
        assert not folder.exists(), "the files of another plan"


def test_another_folder_replaces_the_first_which_comes_again(bed: Bed, tmp_path: Path) -> None:
    bed.worker("w1")
    with bed.plan() as plan:
        for name in ("a", "b"):
            plan.object(f"files{name}", bundle(tmp_path / name, 0, piece(b"x", name.encode())))
        for name in ("a", "b", "a"):
            assert note(plan, f"files{name}") == ("", str(tmp_path / name), [f"files{name}"])
            assert [path.name for path in tmp_path.iterdir() if path.name in "ab"] == [name]


def test_a_future_without_files_does_not_see_those_of_before(bed: Bed, tmp_path: Path) -> None:
    bed.worker("w1")
    folder = tmp_path / "project"
    with bed.plan() as plan:
        plan.object("files0", bundle(folder, 0, piece(b"x", b"1")))
        assert note(plan, "files0")[1] == str(folder)
        assert plan.run("sleep 0") == "slept"
        assert not folder.exists()
        assert note(plan, "files0") == ("", str(folder), ["files0"])
        assert (folder / "x").read_text() == "1"


def test_a_path_that_the_worker_has_stays_as_it_is(bed: Bed, tmp_path: Path) -> None:
    bed.worker("w1")
    (tmp_path / "project").mkdir()
    with bed.plan() as plan:
        plan.object("files0", bundle(tmp_path / "project", 0, piece(b"x", b"of the session")))
        place = Path(note(plan, "files0")[1])
        assert place.name == "project"
        assert (place / "x").read_text() == "of the session"
        assert list((tmp_path / "project").iterdir()) == []
    with bed.plan() as other:
        assert other.run("sleep 0") == "slept"
        assert not place.parent.exists()


def test_files_without_room_are_named_and_come_again_whole(bed: Bed, tmp_path: Path) -> None:
    bed.worker("w1", ("prlimit", "--fsize=1000000"))
    folder = tmp_path / "project"
    with bed.plan() as plan:
        plan.object("files0", bundle(folder, 0, piece(b"small", b"x")))
        plan.object("files1", bundle(folder, 1, piece(b"large", bytes(3_000_000))))
        plan.object("files2", bundle(folder, 2, piece(b"last", b"x")))
        reason, place, names = note(plan, "files0", "files1", "files2")
        assert (place, names) == ("", [])
        assert not folder.exists(), "nothing half-made"
        assert note(plan, "files0") == ("", str(folder), ["files0"])
        reason, _, _ = note(plan, "files0", "files1")
        assert reason.startswith("the disk of the worker's pod is full")
        assert plan.run("echo 0") == "", "the worker went on"


def test_files_come_again_after_the_end_of_r_or_broker(bed: Bed, tmp_path: Path) -> None:
    bed.worker("w1")
    folder = tmp_path / "project"
    plan = bed.plan()
    plan.object("files0", bundle(folder, 0, piece(b"x", b"1")))
    assert note(plan, "files0")[2] == ["files0"]
    (folder / "of a future").touch()
    plan.submit(f"once {tmp_path}/died", needs="files0")
    assert plan.result(2) == "again\n"
    assert os.listdir(folder) == ["x"], "an R that has crashed may have left half of a file"
    bed.restart_broker()
    wait_for(lambda: bed.state("w1") == "idle")
    with bed.plan(key=plan.key) as again:
        again.object("files0", bundle(folder, 0, piece(b"x", b"1")))
        assert again.result(again.submit("note", 3, needs="files0")).split("\n")[2:] == ["files0", ""]


def test_folder_that_a_future_replaced_by_a_file_comes_again(bed: Bed, tmp_path: Path) -> None:
    bed.worker("w1")
    folder = tmp_path / "project"
    with bed.plan() as plan:
        plan.object("files0", bundle(folder, 0, piece(b"data/x", b"1")))
        note(plan, "files0")
        shutil.rmtree(folder / "data")
        (folder / "data").touch()
        plan.object("files1", bundle(folder, 1, piece(b"data/y", b"2")))
        assert note(plan, "files0", "files1")[0].startswith("the worker's pod could not keep the session's files")
        assert note(plan, "files0", "files1")[2] == ["files0", "files1"]
        assert sorted(path.name for path in (folder / "data").iterdir()) == ["x", "y"]


GET_FLAGS, SET_FLAGS, TOP_OF_HIERARCHY = 0x80086601, 0x40086602, 0x20000
"""Of linux/fs.h: FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_TOPDIR_FL."""


def flags_of(folder: Path, add: int = 0) -> int:
    """The folder's flags for its file system, after some were added."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        flags = struct.unpack("i4x", fcntl.ioctl(descriptor, GET_FLAGS, bytes(8)))[0] | add
        if add:
            fcntl.ioctl(descriptor, SET_FLAGS, struct.pack("i4x", flags))
            return flags_of(folder)
        return int(flags)
    finally:
        os.close(descriptor)


def spread(folder: Path) -> bool:
    """True if ext4 spreads the folders in this one."""
    return bool(flags_of(folder) & TOP_OF_HIERARCHY)


def test_folders_of_a_project_are_spread_over_an_ext4_disk(bed: Bed, tmp_path: Path) -> None:
    (tmp_path / "probe").mkdir()
    try:
        taken = flags_of(tmp_path / "probe", TOP_OF_HIERARCHY) & TOP_OF_HIERARCHY
    except OSError:
        pytest.skip("this file system has no flags")
    if not taken:
        pytest.skip("this file system takes no such flag")
    bed.worker("w1", TMPDIR=str(tmp_path))
    with bed.plan() as plan:
        for number, folder in enumerate((tmp_path / "above" / "project", tmp_path)):  # the second path is there
            plan.object(f"files{number}", bundle(folder, 0, piece(b"data/x", b"1")))
            place = Path(note(plan, f"files{number}")[1])
            assert [spread(place.parent), spread(place), spread(place / "data")] == [True, True, False]
