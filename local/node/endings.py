"""Reads from a service's log why it ended. Standard library only: it runs in the node; the machine imports it too."""

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
    """Return the sentence in a program's last output that says why it ended; empty where it said nothing.

    log: what it wrote between its last start and its end. Knows klog (`E1125 ... err="..."`), logfmt
    (`level=fatal msg="..."`), JSON lines and Go's panics; of anything else it takes the last line.
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
    """Whether two sentences are the same but for numbers, such as times, PIDs and ports."""
    return re.sub(r"\d+", "#", one) == re.sub(r"\d+", "#", other)
