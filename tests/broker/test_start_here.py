"""The first script and notebook in a new home."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest

from image.scheduler.start_here import SCRIPT, start_here


def names(home: Path) -> set[str]:
    return {path.name for path in home.iterdir()}


@pytest.mark.parametrize(
    ("ide", "expected"),
    [
        ("rstudio", {"start-here.R"}),
        ("jupyterlab", {"start-here.ipynb"}),
        ("both", {"start-here.R", "start-here.ipynb"}),
    ],
)
def test_empty_home_gets_the_files_of_its_ide(tmp_path: Path, ide: str, expected: set[str]) -> None:
    (tmp_path / "lost+found").mkdir()
    (tmp_path / ".bashrc").touch()
    start_here(tmp_path, ide)
    assert names(tmp_path) == expected | {"lost+found", ".bashrc", ".local"}


def test_deleted_files_do_not_come_back(tmp_path: Path) -> None:
    start_here(tmp_path, "both")
    for name in ("start-here.R", "start-here.ipynb"):
        (tmp_path / name).unlink()
    start_here(tmp_path, "both")
    assert names(tmp_path) == {".local"}


def test_home_with_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "analysis").mkdir()
    start_here(tmp_path, "both")
    assert names(tmp_path) == {"analysis"}


def test_home_that_cannot_be_written_is_reported_only(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / ".local").touch()  # where a folder is needed
    start_here(tmp_path, "both")
    assert "no start-here.R in" in capfd.readouterr().err
    assert names(tmp_path) == {".local"}


def test_notebook_is_valid_and_has_the_scripts_code(tmp_path: Path) -> None:
    start_here(tmp_path, "jupyterlab")
    text = (tmp_path / "start-here.ipynb").read_text()
    nbformat.validate(json.loads(text))
    cells = json.loads(text)["cells"]
    code = "\n".join(cell["source"] for cell in cells if cell["cell_type"] == "code")
    assert code.split("\n") == [line for line in SCRIPT.read_text().split("\n") if line and not line.startswith("#")]
    assert "Let the workers go." in "".join(cell["source"] for cell in cells if cell["cell_type"] == "markdown")
