"""Wrong settings, each with what was given, what is allowed and the command that fixes it; all of them in one error."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from components.settings.keys import Key, keys_of


@dataclass(frozen=True)
class Problem:
    """One wrong setting: its key, what was given (None hides it), what is allowed, and the command that fixes it.

    others: further keys that the problem is about. It is not reported where one of these is wrong by itself.
    """

    key: str
    given: str | None
    allowed: str
    fix: str
    others: tuple[str, ...] = ()

    def __str__(self) -> str:
        given = "" if self.given is None else f" is {self.given}"
        return f"{self.key}{given}\n    allowed: {self.allowed}\n    fix:     {self.fix}"


class SettingsError(pulumi.RunError):
    """Every wrong setting of the stack, in one message. Pulumi prints a RunError without a stack trace."""

    def __init__(self, stack: str, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        count = "1 setting is" if len(problems) == 1 else f"{len(problems)} settings are"
        text = "\n".join(f"  {problem}" for problem in problems)
        super().__init__(f"{count} wrong in stack {stack!r}:\n{text}")


class Contradictions(ValueError):  # noqa: N818 - pydantic carries it; no code catches it
    """Settings that are valid one by one and wrong together."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(problem.key for problem in problems))
        self.problems = tuple(problems)


def did_you_mean(word: str, choices: Sequence[str]) -> str:
    """A hint at the choice that is spelt nearly like `word`, in parentheses; empty where none is."""
    near = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    return f" (did you mean {near[0]!r}?)" if near else ""


def wrong_values(error: ValidationError, model: type[BaseModel], given: Mapping[str, Any]) -> list[Problem]:
    """The problem of each key whose value is wrong or missing. given: what was validated, by key."""
    by_key: dict[str, list[ErrorDetails]] = {}
    for entry in error.errors(include_url=False):
        name = str(entry["loc"][0]) if entry["loc"] else ""
        # A value that was not given was made from another one, whose problem is reported.
        if name and (name in given or entry["type"] == "missing"):
            by_key.setdefault(name, []).append(entry)
    found: list[Problem] = []
    for name, entries in by_key.items():
        key = keys_of(model)[name]
        if entries[0]["type"] == "missing":
            found.append(Problem(name, "not set", key.missing, key.missing_fix))
        else:
            shown = repr(given[name]) if key.shown else None
            found.append(Problem(name, shown, allowed(key, entries), key.wrong_fix))
    return found


def contradictions(error: ValidationError) -> list[Problem]:
    """The problems of values that are valid one by one. Pydantic looks for them only where every value is valid."""
    causes = [entry.get("ctx", {}).get("error") for entry in error.errors(include_url=False)]
    return [problem for cause in causes if isinstance(cause, Contradictions) for problem in cause.problems]


def allowed(key: Key, entries: Sequence[ErrorDetails]) -> str:
    """The key's allowed values, with pydantic's finding as a detail."""
    kind = key.type
    wrong_items = [entry for entry in entries if len(entry["loc"]) > 1]
    if kind.item and wrong_items:
        listed = [f"{entry['input']!r} is not {kind.item.words}{detail(entry)}" for entry in wrong_items]
        return f"a list in which each item is right: {'; '.join(listed)}"
    if kind.choices:
        return key.allowed + did_you_mean(str(entries[0]["input"]), kind.choices)
    return key.allowed + detail(entries[0])


def detail(entry: ErrorDetails) -> str:
    """The reason that a validator of ours gives, in parentheses; empty where it gives none."""
    reason = str(entry.get("ctx", {}).get("error", "")) if entry["type"] == "value_error" else ""
    return f" ({reason})" if reason else ""
