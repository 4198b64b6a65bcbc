"""Futures on the live page: their start and end, their rows, and the browser's complaints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from selenium import webdriver

from tests.broker.r_session import PlanSession


def submit(plan: PlanSession, folder: Path, label: str = "fit-1") -> Callable[[], None]:
    """Submit a future; return what ends it."""
    flag = folder / f"flag-{plan.number}"
    number = plan.submit(f"until {flag}", label=label)

    def end() -> None:
        flag.touch()
        plan.result(number)

    return end


def unfold(browser: webdriver.Chrome) -> None:
    """Open the tables."""
    browser.execute_script("for (const part of document.querySelectorAll('details')) part.open = true")


def rows(browser: webdriver.Chrome) -> list[list[str]]:
    """Cells of the table of futures."""
    return browser.execute_script(  # type: ignore[no-any-return]
        "return [...document.querySelectorAll('#bars-table tbody tr')].map(r => [...r.cells].map(c => c.textContent))"
    )


def row(browser: webdriver.Chrome, label: str, outcome: str) -> list[str]:
    """The row of this future with this outcome; empty for none."""
    return next((cells for cells in rows(browser) if cells[0] == label and cells[2] == outcome), [])


def errors(browser: webdriver.Chrome) -> list[str]:
    """Complaints of the browser since the last call."""
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]  # type: ignore[no-untyped-call]
