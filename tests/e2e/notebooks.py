"""R notebooks in a real browser's JupyterLab, run cell by cell."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

from selenium import webdriver
from selenium.common.exceptions import (
    ElementClickInterceptedException,
    ElementNotInteractableException,
    StaleElementReferenceException,
    TimeoutException,
)
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from bench.browser import BrowserWait
from tests.e2e.conftest import Stack

IDLE = (By.CSS_SELECTOR, '.jp-Notebook-ExecutionIndicator[data-status="idle"]')
CELL = (By.CSS_SELECTOR, ".jp-Notebook .jp-CodeCell")


def write_notebook(stack: Stack, path: str, cells: Sequence[str]) -> None:
    """Write a notebook of R cells at ``path``, from the home folder on, in the scheduler pod."""
    notebook = {
        "cells": [
            {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": cell, "id": f"c{i}"}
            for i, cell in enumerate(cells)
        ],
        "metadata": {"kernelspec": {"display_name": "R", "language": "R", "name": "ir"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    pod = stack.scheduler()["metadata"]["name"]
    place = 'mkdir -p "$(dirname "$0")" && cat > "$0"'
    stack.kubectl("exec", "-i", pod, "--", "sh", "-c", place, path, input=json.dumps(notebook))


def accept_dialogs(browser: webdriver.Chrome) -> None:
    """Press the default button of each dialog, such as JupyterLab's choice of a kernel, and print what it said."""
    for dialog in browser.find_elements(By.CSS_SELECTOR, "dialog.jp-Dialog, div.jp-Dialog"):
        print("JupyterLab asked:", dialog.text)
        for button in dialog.find_elements(By.CSS_SELECTOR, "button.jp-mod-accept")[-1:]:
            button.click()


def run_cells(browser: webdriver.Chrome, number: int) -> None:
    """Run the first ``number`` cells one after another, each but the last to its end.

    JupyterLab shows a kernel as idle before it takes cells. It drops those, also after it has marked one as running, or
    asks for a kernel. So try again until the cell runs; a kernel that has run one takes the next.
    """

    def shown(cell: WebElement) -> str:
        return cell.find_element(By.CSS_SELECTOR, ".jp-InputPrompt").text.strip("[]: ")

    def has_run(which: int, b: webdriver.Chrome) -> bool:
        accept_dialogs(b)
        cells = b.find_elements(*CELL)
        if len(cells) <= which:  # not drawn yet
            return False
        cell = cells[which]
        if not shown(cell):
            with suppress(ElementClickInterceptedException, ElementNotInteractableException):  # a dialog, or not drawn
                cell.find_element(By.CSS_SELECTOR, ".cm-content").click()
                ActionChains(b).key_down(Keys.SHIFT).send_keys(Keys.ENTER).key_up(Keys.SHIFT).perform()
            with suppress(TimeoutException):
                BrowserWait(b, 5).until(lambda _: shown(cell))
        return shown(cell).isdecimal() or (bool(shown(cell)) and which == number - 1)

    BrowserWait(browser, 90).until(lambda b: b.find_elements(*IDLE))
    redrawn = (StaleElementReferenceException,)
    for which in range(number):
        BrowserWait(browser, 120, ignored_exceptions=redrawn).until(partial(has_run, which))


def end_kernels(browser: webdriver.Chrome, base: str = "/") -> None:
    """End each notebook's R, so that its workers are free for the next test. ``base``: path of the Jupyter server."""
    script = """
        const [base, done] = arguments;
        const token = document.cookie.match(/_xsrf=([^;]+)/)[1];
        const end = { method: "DELETE", headers: { "X-XSRFToken": token } };
        fetch(base + "api/sessions").then(a => a.json())
          .then(all => Promise.all(all.map(s => fetch(base + "api/sessions/" + s.id, end))))
          .then(() => done(""), error => done(String(error)))
    """
    browser.set_script_timeout(120)
    assert browser.execute_async_script(script, base) == ""
