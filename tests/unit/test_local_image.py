"""The build of the image on this machine: what is tried again, and what is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from common.errors import UserError
from local import image, lifecycle

BUSY = "Close_Fd sealing memfd copy: Device or resource busy"


def builds(monkeypatch: pytest.MonkeyPatch, folder: Path, fails: int, message: str) -> Path:
    """A program in buildah's place that fails so often, with this message; the file that counts its runs."""
    runs = folder / "runs"
    script = f'echo x >> "{runs}"; [ "$(wc -l < "{runs}")" -gt {fails} ] || {{ echo "{message}"; exit 1; }}'

    def in_place(*_: Any) -> list[str]:
        return ["sh", "-c", script]

    monkeypatch.setattr(image, "_in_node_root", in_place)
    return runs


def test_a_step_that_could_not_start_is_tried_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runs = builds(monkeypatch, tmp_path, 2, BUSY)
    image._build_layers("tag", {})
    assert runs.read_text().count("x") == 3


@pytest.mark.parametrize(("message", "expected"), [(BUSY, 3), ("no such package", 1)])
def test_a_build_that_fails_ends_with_what_it_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, message: str, expected: int
) -> None:
    runs = builds(monkeypatch, tmp_path, 9, message)
    with pytest.raises(UserError, match=message):
        image._build_layers("tag", {})
    assert runs.read_text().count("x") == expected


def test_rstudio_alone_is_refused_where_the_base_cannot_have_it() -> None:
    with pytest.raises(UserError, match=r"(?s)ide is 'rstudio' .* allowed: jupyterlab, both .* fix: "):
        lifecycle._settings({"ide": "rstudio"})
    assert lifecycle._settings({"ide": "both"}).ide == "both"
    assert lifecycle._settings({"ide": "rstudio", "image": f"registry.example.org/r@sha256:{'a' * 64}"}).image
