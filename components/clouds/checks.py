"""Questions to a cloud, answered in full or refused with a fix, and checks that every cloud needs.

Nothing here imports a cloud's SDK.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import pulumi

Answer = TypeVar("Answer")

MAX_REASON = 300
"""Characters of a provider's reason that are shown for a check that is left out."""

CONTINUE = "pulumi up, which continues where it stopped"
"""The end of a fix where resources exist already."""


class CloudError(pulumi.RunError):
    """Something that the cloud refuses or does not offer, found before anything is created. Printed without a stack
    trace.
    """


class Refusal(Exception):  # noqa: N818 - not always an error: some lookups ask whether something exists
    """A provider's refusal of a lookup, in the provider's words. Also no answer, and one that cannot be used."""


@contextmanager
def refusals() -> Iterator[None]:
    """Raises Refusal for a data source that fails. Every other error goes through: it is a fault of the program.

    Pulumi's SDK raises a bare Exception for whatever a provider or the connection to it answers, and no subclass.
    """
    try:
        yield
    except Exception as error:
        if type(error) is not Exception:
            raise
        raise Refusal(str(error)) from error


def problem(given: str, allowed: str, fix: str) -> str:
    """One problem in the form in which wrong settings are reported."""
    return f"{given}\n    allowed: {allowed}\n    fix:     {fix}"


def ask(question: str, call: Callable[[], Answer], fixes: Sequence[tuple[str, str]]) -> Answer:
    """The answer of a provider's data source. Raises CloudError with the question, the provider's reason and a fix.

    fixes: pairs of a pattern and a fix. The first pattern that the provider's message matches chooses the fix.
    """
    try:
        with refusals():
            return call()
    except Refusal as error:
        raise explained(question, error, fixes) from error


def explained(question: str, error: Exception, fixes: Sequence[tuple[str, str]]) -> CloudError:
    """The refusal of a provider's data source, in words: the question, the provider's reason and a fix."""
    reason = " ".join(str(error).split())
    fix = next((fix for pattern, fix in fixes if re.search(pattern, reason, re.IGNORECASE)), "see the reason above")
    return CloudError(f"cannot find out {question}\n    reason:  {reason}\n    fix:     {fix}")


def ask_late(question: str, answer: pulumi.Output[Answer], fixes: Sequence[tuple[str, str]]) -> pulumi.Output[Answer]:
    """The answer of a data source that is asked during the update, about what the update makes.

    A refusal stops the update with a CloudError. It says that the next update continues, since resources exist by then.
    """

    continuing = [(pattern, f"{fix}; then {CONTINUE}") for pattern, fix in fixes]

    def refuse(error: Exception) -> Answer:
        def again() -> Answer:
            raise error

        return ask(question, again, continuing)

    return answer.recover(refuse)


def ask_or_none(call: Callable[[], Answer]) -> Answer | None:
    """The answer of a lookup on which only the words of a message hang. None where the provider refuses it.

    A check uses `ask_or_say`. What a resource is made from uses `ask`: otherwise an expired login, or a provider that
    is busy, would change the resource.
    """
    try:
        with refusals():
            return call()
    except (Refusal, CloudError) as error:  # `call` may explain a refusal itself
        pulumi.log.debug(f"optional lookup failed, continuing without it: {error}")
        return None


def found_or_none(call: Callable[[], Answer], absent: str) -> Answer | None:
    """The answer of a provider's data source; None where its message matches `absent`: there is no such thing."""
    try:
        with refusals():
            return call()
    except Refusal as error:
        if re.search(absent, str(error)):
            return None
        raise


def ask_or_say(unchecked: str, call: Callable[[], Answer]) -> Answer | None:
    """The answer of a lookup that is only for a check. Where the provider refuses it, says so and returns None.

    unchecked: what the provider may therefore refuse only when it creates it.
    """
    try:
        with refusals():
            return call()
    except Refusal as error:
        say_unchecked(unchecked, error)
        return None


def say_unchecked(unchecked: str, error: Exception) -> None:
    """Says what is not checked, and the beginning of the provider's reason."""
    reason = " ".join(str(error).split())
    pulumi.log.info(f"not checked: {unchecked}. Reason: {reason[:MAX_REASON]}")


def require_tool(name: str, why: str, fix: str) -> None:
    """Raises CloudError unless the command `name` is on PATH."""
    if shutil.which(name) is None:
        raise CloudError(problem(f"the command {name} is not on PATH", f"it is required: {why}", fix))
