"""The pages: every link leads somewhere, and the repository's address stands in one place."""

from __future__ import annotations

import itertools
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main

from ci.lint import tracked_files
from cli.main import app
from components.clouds import MODELS
from components.settings.keys import keys_of
from components.settings.loading import parse
from tests.unit.cloud_mocks import ROOT

PAGES = [name for name in tracked_files(ROOT, "*.md") if not name.startswith(".github/")]
PLACEHOLDER = "https://github.com/" + "OWNER/future-kubernetes"


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


R_PACKAGE = "image/future.kubernetes"


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("README.md", r"^\|"),
        ("docs/analyst.md", r"^\|"),
        (f"{R_PACKAGE}/vignettes/future-kubernetes.Rmd", r"^\|"),
        (f"{R_PACKAGE}/R/backend.R", r"\\tab"),
        (f"{R_PACKAGE}/man/kubernetes.Rd", r"\\tab"),
    ],
)
def test_page_says_in_a_table_what_a_future_sees(name: str, row: str) -> None:
    text = (ROOT / name).read_text()
    tables = [
        "\n".join(lines)
        for is_row, lines in itertools.groupby(text.splitlines(), lambda line: re.search(row, line) is not None)
        if is_row
    ]
    (table,) = (table for table in tables if "working directory" in table)
    for word in ("globals", "package", "time zone", "hidden files", "/shared", "connection"):
        assert word in table, word


@pytest.mark.parametrize("name", ["SECURITY.md", "docs/analyst.md", f"{R_PACKAGE}/R/cluster.R"])
def test_page_says_who_may_use_the_workers_by_a_forwarded_port(name: str) -> None:
    text = " ".join((ROOT / name).read_text().replace("#'", "").split())
    assert "may forward a port to the scheduler's pod may use the workers" in text


OPERATIONS = ROOT / "docs" / "operations.md"
PULUMI = {
    ("cancel",), ("config", "set"), ("destroy",), ("preview",), ("refresh",), ("stack", "history"),
    ("stack", "output"), ("stack", "select"), ("up",),
}  # fmt: skip
"""Pulumi's commands, as `pulumi --help` lists them."""
KUBECTL = {"config", "delete", "describe", "exec", "get", "logs", "rollout", "top"}
PROGRAMS = {"pulumi", "kubectl", "helm", ".venv/bin/future-kubernetes", "dig", "make"}


def sections() -> dict[str, str]:
    """Text of each section of the page by its heading."""
    parts = re.split(r"^## (.+)$", OPERATIONS.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def commands(text: str) -> list[list[str]]:
    """Words of each command in a text: of its blocks, and of the code within its sentences and tables."""
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    rest = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    # In a sentence a program's name may stand without a command.
    lines += [code for code in re.findall(r"`([^`]+)`", rest) if code.split()[0] in PROGRAMS and " " in code]
    found: list[list[str]] = []
    for line in lines:
        words = [""]
        for word in shlex.split(re.sub(r'"\$\((.*)\)"', r"&& \1", line), comments=True):
            if word == "&&":
                words.append("")
            else:
                words[-1] += f" {shlex.quote(word)}" if word else ""
        found += [shlex.split(part) for part in words if part and not re.match(r" \S+=", part)]
    return [command for command in found if command != ["eval"]]


ALL = [(heading, command) for heading, text in sections().items() for command in commands(text)]


def options(command: list[str]) -> set[str]:
    """The options of a command."""
    return {word for word in command if word.startswith("--")}


def test_every_symptom_has_a_diagnosing_and_a_fixing_command() -> None:
    read = {"get", "describe", "logs", "top", "output", "history", "preview"}
    for heading, text in sections().items():
        found = commands(text)
        shows = [command for command in found if set(command[1:4]) & read]
        assert shows, heading
        assert [command for command in found if command not in shows], heading
    table = OPERATIONS.read_text().partition("\n## ")[0]
    assert re.findall(r"\[([^\]]+)\]\(#", table) == list(sections())


@pytest.mark.parametrize(
    ("heading", "command"), ALL, ids=lambda part: part if isinstance(part, str) else " ".join(part)
)
def test_every_command_of_the_operations_page_exists(heading: str, command: list[str]) -> None:
    program, words = command[0], [word for word in command[1:] if not word.startswith("-")]
    assert program in PROGRAMS, heading
    if program == "make":
        assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    elif program == "pulumi":
        assert any(tuple(words[: len(known)]) == known for known in PULUMI)
        if words[:2] == ["config", "set"]:
            check_setting(words[2], *words[3:4])
        if words[:2] == ["stack", "output"]:
            outputs = (ROOT / "components/release/outputs.py").read_text()
            assert f'"{words[2]}"' in outputs
    elif program == ".venv/bin/future-kubernetes":
        check_own(words[0], options(command))
    elif program == "kubectl":
        check_kubectl(command)


def check_setting(key: str, value: str = "") -> None:
    """The setting exists, and takes the value."""
    name, *path = re.split(r"[.\[]", key.replace("]", ""))
    known = {name: key for model in MODELS.values() for name, key in keys_of(model).items()}
    assert name in known
    if path:
        part = json.loads((ROOT / "chart/values.schema.json").read_text())["properties"]
        for step in path:
            if step.isdigit():
                break
            part = part[step].get("properties", part[step])
        return
    if value:
        others = {"maxWorkers": "80", "workers": "1", "idleMinutes": "30"}
        parse({"cloud": "kubeconfig", "image": "a/b:1", **others, name: value}, MODELS, stack="dev")


def check_own(name: str, given: set[str]) -> None:
    """The project's own command exists, with these options."""
    own: Any = typer.main.get_command(app)
    known = {option for each in own.commands[name].params for option in each.opts}
    assert given <= known


def check_kubectl(command: list[str]) -> None:
    """The verb is kubectl's, and each object of the release has a name that the chart gives."""
    verbs = [word for word in command[1:] if word in KUBECTL]
    assert verbs, command
    templates = "".join(file.read_text() for file in (ROOT / "chart/templates").iterdir() if file.is_file())
    for word in command:
        if found := re.search(r"\$RELEASE(-\w+)$", word):
            assert f"$fullname }}}}{found[1]}" in templates or f'fullname" . }}}}{found[1]}' in templates
        for label in re.findall(r"([\w./]+)=", word) if command[command.index(word) - 1] == "--selector" else ():
            assert f"\n{label}:" in templates


def test_the_check_of_commands_can_fail() -> None:
    for wrong in (
        ["pulumi", "improve"],
        ["pulumi", "config", "set", "maxWorker", "80"],
        ["pulumi", "config", "set", "--path", "chartValues.monitoring.hours", "2"],
        ["pulumi", "stack", "output", "prices"],
        [".venv/bin/future-kubernetes", "heal"],
        [".venv/bin/future-kubernetes", "runs", "--nonsense"],
        ["kubectl", "mend", "deployment/$RELEASE-scheduler"],
        ["kubectl", "logs", "deployment/$RELEASE-boss"],
        ["make", "better"],
    ):
        with pytest.raises((AssertionError, KeyError)):
            test_every_command_of_the_operations_page_exists("", wrong)


def test_each_picture_is_small_and_shown_on_a_page() -> None:
    named = re.compile(r'(?:\]\(|src="|srcset=")([^)"\s]+\.(?:png|svg))')
    shown = {
        ((ROOT / page).parent / found).resolve() for page in PAGES for found in named.findall((ROOT / page).read_text())
    }
    pictures = tracked_files(ROOT, "docs/*.png", "docs/*.svg")
    assert len(pictures) >= 4
    for name in pictures:
        assert (ROOT / name).stat().st_size < 150_000, name
        assert (ROOT / name).resolve() in shown, name
    assert all(file.exists() for file in shown)
