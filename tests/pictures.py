"""The pictures of README.md and docs/analyst.md.

Tests take them at each run into build/pictures; `make pictures` copies them to docs/.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from selenium import webdriver

from common.paths import REPO

FOLDER = REPO / "build" / "pictures"
_BYTES = 150_000
_COLOURS = 256


@contextmanager
def looking_as(browser: webdriver.Chrome, scheme: str, width: int, height: int) -> Iterator[None]:
    """A window of that size, light or dark, without scroll bars; afterwards as it was."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    try:
        time.sleep(0.6)  # the live page draws four times a second
        yield
    finally:
        browser.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": False})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def take(browser: webdriver.Chrome, name: str) -> Path:
    """Keep what the browser shows, small; fails for a picture on which there is nothing to see."""
    return keep(browser.get_screenshot_as_png(), name)


def keep(png: bytes, name: str) -> Path:
    """Write the picture with few colours, and without any text or time in the file."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    counts = sorted((count for count, _ in picture.getcolors(picture.width * picture.height) or []), reverse=True)
    assert len(counts) > 50, f"{name} has {len(counts)} colours"
    assert counts[0] < 0.97 * picture.width * picture.height, f"{name} is one colour nearly everywhere"
    made = io.BytesIO()
    # The default leaves out the colours of few pixels, such as a square of the legend. Without k-means the large
    # surfaces get a tint.
    few = picture.quantize(_COLOURS, Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE)
    few.save(made, "PNG", optimize=True)
    assert len(made.getvalue()) < _BYTES, f"{name} has {len(made.getvalue())} bytes"
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}.png"
    path.write_bytes(made.getvalue())
    return path
