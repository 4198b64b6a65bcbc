"""The pages: every link leads somewhere, and the repository's address stands in one place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ci.lint import tracked_files
from tests.unit.cloud_mocks import ROOT

PAGES = [name for name in tracked_files(ROOT, "*.md") if not name.startswith(".github/")]
PLACEHOLDER = "URL-OF-" + "THIS-REPOSITORY"


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", PAGES)
def test_every_link_within_the_repository_leads_somewhere(name: str) -> None:
    page = ROOT / name
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), target


def test_the_repositorys_address_is_a_placeholder_in_one_place() -> None:
    holders = {
        name: count
        for name in tracked_files(ROOT, ":!*.lock")
        if (count := (ROOT / name).read_bytes().count(PLACEHOLDER.encode()))
    }
    assert holders == {"README.md": 1}


def test_the_readme_names_each_make_target_and_page_that_exists() -> None:
    text = (ROOT / "README.md").read_text() + (ROOT / "CONTRIBUTING.md").read_text()
    made = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"\bmake ([\w-]+)", text))
    assert named <= made, named - made


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "image/broker/README.md"])
def test_each_path_that_an_index_names_exists(name: str) -> None:
    """A rename must reach the tables by which a newcomer finds a concern."""
    page = ROOT / name
    tables = "\n".join(line for line in page.read_text().splitlines() if line.startswith("|"))
    paths = [path for path in re.findall(r"`([\w./-]+(?:\.\w+|/))`", tables) if not path.startswith(("/", "."))]
    assert len(paths) > 10
    known = tracked_files(ROOT)
    for path in paths:
        # A second file of a row is named without its folder.
        assert any(f"/{file}".endswith(f"/{path}") or f"/{path}" in f"/{file}" for file in known), path
