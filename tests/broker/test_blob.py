"""Bytes on their way: in memory within a bound, else on disk."""

from __future__ import annotations

import gc
import mmap
from pathlib import Path

import pytest

from image.common import blob
from image.common.blob import Blob


def filled(size: int, folder: Path | None = None) -> Blob:
    made = Blob(size, folder)
    made.write(bytes(size))
    return made


def test_a_blob_gives_its_bytes_as_often_as_asked(tmp_path: Path) -> None:
    for size in (0, 10, blob.MEMORY_BYTES, blob.MEMORY_BYTES + 1, 3 * blob.PIECE_BYTES + 7):
        made = filled(size, tmp_path)
        for _ in range(2):
            assert b"".join(made.pieces()) == bytes(size)
        assert made.complete


def test_memory_is_bounded_for_all_together_and_comes_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gc.collect()
    before = Blob.held
    monkeypatch.setattr(blob, "BUDGET_BYTES", before + 250_000)
    made = [filled(100_000, tmp_path) for _ in range(4)]
    assert [one.path is None for one in made] == [True, True, False, False]
    assert Blob.held == before + 200_000
    assert filled(blob.TINY_BYTES, tmp_path).path is None, "a tiny one is not worth a file"
    del made
    gc.collect()
    assert Blob.held == before
    assert filled(100_000, tmp_path).path is None


def test_file_without_a_name_is_not_copied_for_each_reader(tmp_path: Path) -> None:
    size = blob.MEMORY_BYTES + 1
    first = filled(size)
    assert all(isinstance(piece, memoryview) for piece in first.pieces())
    assert all(isinstance(piece, bytes) for piece in filled(size, tmp_path).pieces()), "others can cut this file short"

    kept = first.piece(0)
    del first
    gc.collect()
    assert bytes(kept) == bytes(blob.PIECE_BYTES), "a piece that is still to be sent outlives its blob"


def test_blob_is_read_where_it_cannot_be_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    made = filled(blob.MEMORY_BYTES + 1)

    def refused(*_: object, **__: object) -> None:
        raise OSError("too many mappings")

    monkeypatch.setattr(mmap, "mmap", refused)
    assert b"".join(made.pieces()) == bytes(made.size)


def test_a_blob_takes_over_a_file(tmp_path: Path) -> None:
    path = tmp_path / "given"
    path.write_bytes(b"x" * 1000)
    made = Blob.at(path, keep=True)
    assert made.size == 1000
    made.remove()
    assert not path.exists()
    assert b"".join(made.pieces()) == b"x" * 1000, "who reads it can go on"
