"""Puts a first script and a first notebook into an empty home, once."""

from __future__ import annotations

import json
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("start-here.R")
MARK = Path(".local/share/future-kubernetes/start-here")
"""Exists below a home that has had the files: deleted ones do not come back."""


def start_here(home: Path, ide: str) -> None:
    """Write `start-here.R` for RStudio and `start-here.ipynb` for JupyterLab into a home without files.

    A home that cannot be written is reported, and does not keep the IDE from starting.
    """
    try:
        mark = home / MARK
        if mark.exists() or any(name for name in home.iterdir() if not hidden(name.name)):
            return
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
        text = SCRIPT.read_text()
        if ide != "jupyterlab":
            (home / SCRIPT.name).write_text(text)
        if ide != "rstudio":
            (home / SCRIPT.with_suffix(".ipynb").name).write_text(json.dumps(notebook(text), indent=1) + "\n")
    except OSError as error:
        print(f"future-scheduler: no {SCRIPT.name} in {home}: {error}", file=sys.stderr, flush=True)


def hidden(name: str) -> bool:
    """True for names that a person does not see in a new home; a new volume has the second."""
    return name.startswith(".") or name == "lost+found"


def notebook(script: str) -> dict[str, object]:
    """The notebook of a script: its paragraphs, with leading comments as text."""
    cells: list[dict[str, object]] = []
    for number, paragraph in enumerate(script.strip().split("\n\n")):
        lines = paragraph.split("\n")
        comments = [line for line in lines if line.startswith("#")]
        code = lines[len(comments) :]
        text = "\n".join(line.removeprefix("#").strip() for line in comments)
        if comments:
            cells.append({"cell_type": "markdown", "id": f"text-{number}", "metadata": {}, "source": text})
        if code:
            ran: dict[str, object] = {"execution_count": None, "outputs": []}
            source = "\n".join(code)
            cells.append({"cell_type": "code", "id": f"code-{number}", "metadata": {}, "source": source, **ran})
    kernel = {"display_name": "R", "language": "R", "name": "ir"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
