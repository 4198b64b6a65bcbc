"""The report on what futures did: figures from the events of tasks, and one HTML file that needs nothing else."""

from __future__ import annotations

import asyncio
import json
import time

from ..reports import Reports
from .figures import Scope, figures
from .page import page, summary


async def report(reports: Reports, scope: Scope, title: str, price: float | None) -> str:
    """The file and its summary as JSON. A thread makes them: 10,000 futures take longer than workers should wait."""
    events, held_since = list(reports.events), reports.held_since

    def made() -> str:
        found = figures(events, scope, time.time(), held_since)
        html = page(found, title, price) if found.outcomes else ""
        return json.dumps({"html": html, "lines": summary(found, price)}, separators=(",", ":"))

    return await asyncio.to_thread(made)
