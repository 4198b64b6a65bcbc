"""Finds in a service's log why it ended. Standard library only: the node runs it, and the machine imports it."""

from __future__ import annotations

import re

_FIRST = re.compile(r"^(panic: |fatal error: |Error: |error: |runc: |.*unknown flag)")
_ERROR = re.compile(
    r"\berr(or)?=|level=(fatal|error)|\"level\":\"(fatal|panic|error)\"|^[EF]\d{4} |\[fatal\]", re.IGNORECASE
)
_KLOG = re.compile(r"^[IWEF]\d{4} [\d:.]+ +\d+ [\w.-]+:\d+\] ")
_QUOTED = re.compile(r"\b(?:err|error)=(\"(?:[^\"\\]|\\.)*\"|\S+)")
_MESSAGE = re.compile(r"\bmsg=(\"(?:[^\"\\]|\\.)*\"|\S+)")
_JSON = re.compile(r"\"(?:msg|error)\":\"((?:[^\"\\]|\\.)*)\"")


def fatal_line(log: str) -> str:
    """Return the sentence of a program's log that states why it ended; empty if there is none.

    log: output between the last start and the end. Knows klog (`E1125 ... err="..."`), logfmt
    (`level=fatal msg="..."`), JSON lines and Go's panics; in other formats the last line counts.
    """
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    if not lines:
        return ""
    first = next((line for line in lines if _FIRST.match(line)), None)
    line = first or next((line for line in reversed(lines) if _ERROR.search(line)), lines[-1])
    said = _KLOG.sub("", line)
    quoted = _QUOTED.search(said) or _MESSAGE.search(said)
    if quoted:
        said = quoted.group(1).strip('"').replace('\\"', '"')
    elif said.startswith("{"):
        said = ": ".join(_JSON.findall(said)) or said
    return said[:500]


def same(one: str, other: str) -> bool:
    """Return True if two sentences differ only in numbers, such as times, PIDs and ports."""
    return re.sub(r"\d+", "#", one) == re.sub(r"\d+", "#", other)
