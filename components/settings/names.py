"""Names of resources, made from the stack's name."""

from __future__ import annotations

import hashlib
import re

MAX_STACK_NAME = 29
"""Keeps `future-<stack>` within the 36 characters that the chart leaves to names, and the 40 of a GKE cluster."""


def dns_name(text: str) -> str:
    """`text` as a DNS-1123 label: lower case, everything else a hyphen. Stack names may hold `_`, `.` and capitals."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def short_name(name: str, limit: int) -> str:
    """`name` in at most `limit` characters: cut, and ended by a hash of the whole so that two names stay apart."""
    if len(name) <= limit:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:6]
    return f"{name[: limit - 7].rstrip('-')}-{digest}"
