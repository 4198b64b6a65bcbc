"""Numbers, times and text as a report has them. Pure: no I/O."""

from __future__ import annotations

import html
import time


def text(words: object) -> str:
    """Text that is safe anywhere in HTML: no markup, and nothing that does not print, as what turns the direction."""
    return html.escape("".join(c if c.isprintable() else " " for c in str(words)), quote=True)


def number(count: int, noun: str) -> str:
    """A count with its noun."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def duration(seconds: float) -> str:
    """A time span with two units at most."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms" if seconds else "0 s"
    if seconds < 9.95:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    if seconds < 119.5:
        return f"{seconds:.0f} s"
    if seconds < 3600 * 2 - 30:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min" + (f" {rest} s" if rest else "")
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h" + (f" {minutes} min" if minutes else "")


def size(count: float) -> str:
    """A number of bytes."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024 or unit == "TiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "B" or count >= 99.5 else f"{count:.1f} {unit}"


def moment(at: float) -> str:
    """A time of the day, in UTC, with its date."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))


def percent(share: float) -> str:
    """A share of 1."""
    return f"{100 * share:.0f} %"
