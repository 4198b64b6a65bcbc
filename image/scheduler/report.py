"""Writes the report on a batch run's futures, which the broker makes, into the run's folder.

Arguments: the run's name, the second of the epoch at which it began, and the title. Without a future there is no
report. Whatever keeps it from being written is said in one line, and never fails the run.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

from ..broker.run_report.page import MARK
from ..common import protocol

FILE = "report.html"
PRICE = "FUTURE_KUBERNETES_WORKER_PRICE"
ENVIRONMENT = Path("/etc/future-kubernetes/environment")
_SECONDS = 20.0
_HEAD_BYTES = 400
_TITLE = 300


def main() -> None:
    """Write it into the working directory."""
    run, began, title = sys.argv[1:4]
    try:
        html = _asked(f"report run:{run} @{float(began):.0f} {_price()} {title[:_TITLE]}")["html"]
        if html:
            _write(_free(Path(FILE), Path(f"report-{run}.html")), html)
    except (OSError, ValueError, KeyError) as error:
        print(f"future-report: no report of this run's futures: {error}", file=sys.stderr)


def _asked(request: str) -> dict[str, Any]:
    """The broker's answer."""
    run = Path(os.environ.get("FUTURE_KUBERNETES_RUN", "/run/future-kubernetes"))
    with socket.create_connection(("127.0.0.1", int((run / "broker.port").read_text())), _SECONDS) as connection:
        connection.sendall(f"protocol {protocol.VERSION}\n{' '.join(request.split())}\n".encode())
        lines = connection.makefile("rb")
        lines.readline()
        answer = lines.readline().decode(errors="replace").strip()
    word, _, rest = answer.partition(" ")
    if word != "ok":
        raise ValueError(rest or "the broker closed the connection")
    found = json.loads(rest)
    return found if isinstance(found, dict) else {}


def _price() -> str:
    """Price of a worker and hour, of the environment or of the stack's setting `environment`; ``-`` for none."""
    text = os.environ.get(PRICE, "")
    if not text and (ENVIRONMENT / PRICE).is_file():
        text = (ENVIRONMENT / PRICE).read_text()
    try:
        price = float(text) if text.strip() else -1.0
    except ValueError:
        price = -1.0
    if text.strip() and not 0 <= price < float("inf"):
        print(f"future-report: {PRICE} is {text[:40]!r}; it is a number of 0 or more, as 0.21", file=sys.stderr)
        return "-"
    return f"{price:.10g}" if text.strip() else "-"


def _free(*files: Path) -> Path:
    """The first of these files that is none of the user's own."""
    for file in files[:-1]:
        try:
            with file.open("rb") as opened:
                if MARK.encode() in opened.read(_HEAD_BYTES):
                    return file
        except FileNotFoundError:
            return file
    return files[-1]


def _write(file: Path, text: str) -> None:
    new = file.with_name(f".{file.name}.new")
    try:
        new.write_text(text, encoding="utf-8")
        new.replace(file)
    finally:
        new.unlink(missing_ok=True)
