"""Accessibility: axe-core's rules, run in the page."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from selenium import webdriver

SCHEMES = ("light", "dark")


def violations(browser: webdriver.Chrome, scheme: str, *parts: str) -> list[str]:
    """Return what axe objects to on the page that is open: rule, why, and where.

    parts: selectors of elements on a page that is not this project's. Only these are looked at, by the rules of WCAG
    2.1 A and AA: JupyterLab's tiles are against one of axe's further advice (image-redundant-alt).
    """
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    # By the driver and not as a <script>, which the page's policy would refuse.
    browser.execute_script(_source())
    found: dict[str, Any] = browser.execute_async_script(
        "const [parts, done] = arguments;"
        "const tags = { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa'] };"
        "const run = parts.length ? axe.run({ include: parts }, tags) : axe.run(document);"
        "run.then(done, error => done({ error: `${error}` }))",
        list(parts),
    )
    assert "violations" in found, found
    assert len(found["passes"]) > (0 if parts else 5), "axe has looked at the page"
    return [
        f"{scheme}: {rule['id']}: {rule['help']}: {node['target']} {node['failureSummary']}"
        for rule in found["violations"]
        for node in rule["nodes"]
    ]


def _source() -> str:
    spec = importlib.util.find_spec("axe_playwright_python")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return (Path(spec.submodule_search_locations[0]) / "axe.min.js").read_text()
