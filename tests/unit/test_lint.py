"""The checks of `make lint`: each finds what it is there for."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ci import lint
from tests.unit.cloud_mocks import ROOT


def test_shell_script_is_found_by_ending_or_first_line(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    for name, text in {
        "a.sh": "true\n",
        "b": "#!/bin/sh\ntrue\n",
        "c": "#!/usr/bin/env bash\ntrue\n",
        "d.py": "#!/usr/bin/env python3\n",
        "e": "text\n",
        "ignored.sh": "true\n",
        ".gitignore": "ignored.sh\n",
    }.items():
        (tmp_path / name).write_text(text)
    assert lint.shell_scripts(tmp_path) == ["a.sh", "b", "c"]


def test_one_failing_step_fails_all_and_others_still_run(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    python = [sys.executable, "-c"]
    steps = {"bad": lambda: [[*python, "raise SystemExit(3)"]], "good": lambda: [[*python, "print('looked')"]]}
    monkeypatch.setattr(lint, "STEPS", steps)
    assert lint.main([]) == 1
    told = capfd.readouterr()
    assert "looked" in told.out
    assert "make lint STEP=bad" in told.err
    assert lint.main(["good"]) == 0
    assert lint.main(["none"]) == 2


def test_the_hooks_run_what_make_lint_runs() -> None:
    hooks = [
        hook
        for repo in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
        for hook in repo["hooks"]
    ]
    assert {hook["id"] for hook in hooks} == set(lint.STEPS)
    assert all(hook["entry"] == f".venv/bin/python -m ci.lint {hook['id']}" for hook in hooks)


PROSE_OUTSIDE_VALE = ("bench", "chart", "ci", "cli", "common", "components", "docs", "image", "local", "policy")
OLD_WORDS = re.compile(r"\b(mend(s|ed|ing)?|somebody|nobody|(is|are) told|taken away)\b", re.IGNORECASE)


def test_no_file_of_the_product_has_an_older_synonym() -> None:
    """vale reads neither strings, nor code blocks, nor R, JavaScript, shell and YAML."""
    names = lint.tracked_files(ROOT, "*.md", "*.yaml", "Makefile", *PROSE_OUTSIDE_VALE)
    readable = [name for name in names if not name.endswith((".png", ".lock")) and not name.startswith("tests/")]
    assert len(readable) > 200
    found = [
        f"{name}:{number}: {line.strip()}"
        for name in readable
        for number, line in enumerate((ROOT / name).read_text().splitlines(), 1)
        if OLD_WORDS.search(line)
    ]
    assert found == []


OPENINGS = "What|Whether|Those|And|Who|How|When|Why|Until|Which|Tells?"


def docstrings(source: str) -> list[tuple[int, str]]:
    """Return line and text of each docstring of a module, its classes and functions, and its documented names."""
    return [
        (statement.lineno, statement.value.value.strip())
        for node in ast.walk(ast.parse(source))
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        for statement in node.body
        if isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    ]


def test_a_docstring_begins_with_a_verb_or_a_noun() -> None:
    """vale does not distinguish a docstring from a comment, in which a sentence may begin with 'When'."""
    found, number = [], 0
    for name in lint.tracked_files(ROOT, "*.py"):
        for line, text in docstrings((ROOT / name).read_text()):
            number += 1
            if re.match(rf"({OPENINGS})\b", text):
                found.append(f"{name}:{line}: {text.splitlines()[0]}")
    assert number > 1000
    assert found == []


def test_no_r_or_javascript_comment_or_description_begins_with_what() -> None:
    begins = re.compile(r"\s*(#+'?|//|description: (>-\n\s*)?)\s*(What|Whether|Those)\b")
    found = [
        f"{name}: {line.strip()}"
        for name in lint.tracked_files(ROOT, "image/*.R", "image/*.js", "chart/values.schema.yaml", "Pulumi.yaml")
        for line in re.split(r"\n(?!\s+(?:What|Whether|Those)\b)", (ROOT / name).read_text())
        if begins.match(line)
    ]
    assert found == []


def test_no_name_of_a_test_has_more_than_ten_words() -> None:
    names = re.findall(
        r"def test_(\w+)\(", "".join((ROOT / name).read_text() for name in lint.tracked_files(ROOT, "tests/*.py"))
    )
    assert len(names) > 1000
    assert [name for name in names if name.count("_") > 9] == []
