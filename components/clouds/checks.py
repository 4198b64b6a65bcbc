"""Questions to a cloud, answered in full or refused with a fix, and checks that every cloud needs.

Nothing here imports a cloud's SDK.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
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


def problem(given: str, allowed: str, fix: str) -> str:
    """One problem in the form in which wrong settings are reported."""
    return f"{given}\n    allowed: {allowed}\n    fix:     {fix}"


def ask(question: str, call: Callable[[], Answer], fixes: Sequence[tuple[str, str]]) -> Answer:
    """The answer of a provider's data source. Raises CloudError with the question, the provider's reason and a fix.

    fixes: pairs of a pattern and a fix. The first pattern that the provider's message matches chooses the fix.
    """
    try:
        return call()
    except pulumi.RunError:
        raise
    except Exception as error:  # the SDK raises bare Exception for every refusal of a provider
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

    def refuse(error: Exception) -> Answer:
        if isinstance(error, pulumi.RunError):
            raise error
        raise explained(question, error, [(pattern, f"{fix}; then {CONTINUE}") for pattern, fix in fixes]) from error

    return answer.recover(refuse)


def ask_or_none(call: Callable[[], Answer]) -> Answer | None:
    """The answer of a lookup on which only the words of a message hang. None where the provider refuses it.

    A check uses `ask_or_say`. What a resource is made from uses `ask`: otherwise an expired login, or a provider that
    is busy, would change the resource.
    """
    try:
        return call()
    except Exception as error:  # the SDK raises bare Exception; which of them means "not allowed" differs by provider
        pulumi.log.debug(f"optional lookup failed, continuing without it: {error}")
        return None


def found_or_none(call: Callable[[], Answer], absent: str) -> Answer | None:
    """The answer of a provider's data source; None where its message matches `absent`: there is no such thing."""
    try:
        return call()
    except pulumi.RunError:
        raise
    except Exception as error:  # the SDK raises bare Exception for every refusal of a provider
        if re.search(absent, str(error)):
            return None
        raise


def ask_or_say(unchecked: str, call: Callable[[], Answer]) -> Answer | None:
    """The answer of a lookup that is only for a check. Where the provider refuses it, says so and returns None.

    unchecked: what the provider may therefore refuse only when it creates it.
    """
    try:
        return call()
    except Exception as error:  # the SDK raises bare Exception; which of them means "not allowed" differs by provider
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
