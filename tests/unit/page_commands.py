"""Shell commands on the pages of both clouds, taken apart."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from tests.unit.cloud_mocks import ROOT

PAGES = (
    "gke.md",
    "eks.md",
    "ci-preview.md",
    "data.md",
    "operations.md",
    "single-sign-on.md",
    "decisions/0021-cost-and-time-of-a-worker.md",
)


def blocks(name: str, heading: str = "") -> list[str]:
    """The shell blocks of a page, or of one of its sections, with continued lines joined."""
    text = (ROOT / "docs" / name).read_text()
    if heading:
        text = re.split(rf"^#+ {re.escape(heading)}", text, flags=re.MULTILINE)[1].partition("\n## ")[0]
    return [re.sub(r"\\\n\s*", "", block) for block in re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)]


def calls(program: str, text: str) -> Iterator[list[str]]:
    """The words of each call of a program in shell text, without its name."""
    for line in text.splitlines():
        # The command of a quoted substitution counts too.
        bare = re.sub(r'"\$\(([^"]*)\)"', r" ; \1 ; ", line)
        words = shlex.shlex(bare, posix=True, punctuation_chars=True)
        words.whitespace_split = True
        call: list[str] | None = None
        for word in words:
            if word == program:
                call = []
            elif call is not None and not set(word) <= set("();<>|&"):
                call.append(word)
            elif call is not None:
                yield call
                call = None
        if call is not None:
            yield call


def on_pages(program: str) -> list[list[str]]:
    """Every call of a program on the pages."""
    return [call for page in PAGES for block in blocks(page) for call in calls(program, block)]


def options(call: list[str]) -> dict[str, str]:
    """The options of a call with their values; several words of one value are joined."""
    found: dict[str, str] = {}
    last = ""
    for word in call:
        if word.startswith("--"):
            last, _, value = word.partition("=")
            found[last] = value
        elif last:
            found[last] = f"{found[last]} {word}".strip()
    return found
