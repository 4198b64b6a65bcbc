"""The drawings of a report, as SVG: a lane of bars for each worker, and what waited and ran over time. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .figures import Attempt, Figures, Lane
from .text import duration, number, text

MAX_BARS = 3000
"""Bars that are drawn; where there are more futures, neighbours in a lane share one."""
MAX_LANES = 150
_WIDTH = 1000.0
_STEPS = 300
_OUTCOMES = {"running": "r", "done": "d", "lost": "l", "cancelled": "c"}
"""Classes of the style sheet by outcome; any other is a failure, ``f``."""
_CHARACTER = 6.4
"""Width of a character of a bar's label, on the generous side."""


@dataclass
class Bar:
    """One run, or several that are neighbours in their lane, with the worst of their outcomes."""

    began: float
    ended: float
    outcome: str
    first: Attempt
    runs: int = 1


@dataclass(frozen=True)
class Drawing:
    """The stream as SVG, and what it leaves out."""

    svg: str
    bars: int
    merged_within: float
    """Seconds between neighbours that share a bar; 0 if each run has its own."""
    lanes_left_out: int


def css_class(outcome: str) -> str:
    """Class of the style sheet for an outcome."""
    return _OUTCOMES.get(outcome, "f")


def stream(found: Figures) -> Drawing:
    """The lanes, with the busiest workers where there are too many."""
    lanes = found.lanes
    if len(lanes) > MAX_LANES:
        busiest = {id(lane) for lane in sorted(lanes, key=lambda lane: -lane.busy)[:MAX_LANES]}
        lanes = [lane for lane in lanes if id(lane) in busiest]
    begin, span = found.begin, max(found.wall, 1e-3)
    within, rows = 0.0, [_bars(lane, found.end, None) for lane in lanes]
    while sum(map(len, rows)) > MAX_BARS:
        within = 1.3 * within or span / _WIDTH / 4
        rows = [_bars(lane, found.end, within, mixed=within > span / 100) for lane in lanes]
    step = 18 if len(lanes) <= 40 else 9 if len(lanes) <= 80 else 5
    names = step >= 9
    left = 8 + _CHARACTER * min(28, max((len(lane.worker) for lane in lanes), default=0)) if names else 8.0
    height = step * len(lanes) + 26
    parts = [_axis(left, step * len(lanes), span)]
    for index, (lane, bars) in enumerate(zip(lanes, rows, strict=True)):
        top = step * index
        parts.append(f'<g transform="translate({left:g} {top})">')
        if names:
            parts.append(f'<text class="n" x="-6" y="{step * 0.72:.3g}">{text(lane.worker[-28:])}</text>')
        for bar in bars:
            x, width = _at(bar.began - begin, span), max(0.8, _at(bar.ended - bar.began, span))
            width = min(width, _WIDTH - x) if x < _WIDTH - 0.8 else 0.8
            parts.append(
                f'<rect class="{css_class(bar.outcome)}" x="{x:.4g}" width="{width:.4g}" height="{step - 2}">'
                f"<title>{_title(bar, begin)}</title></rect>"
            )
            label = bar.first.name if bar.runs == 1 else f"{bar.runs} futures"
            if step >= 18 and width > 6 + _CHARACTER * len(label):
                parts.append(f'<text class="b" x="{x + 4:.4g}" y="12">{text(label)}</text>')
        parts.append("</g>")
    about = f"{number(len(lanes), 'worker')} as lanes over {duration(span)}; the tables below have the same as text"
    box = f"0 0 {left + _WIDTH + 12:g} {height}"
    svg = f'<svg role="img" aria-label="{text(about)}" viewBox="{box}">{"".join(parts)}</svg>'
    return Drawing(svg, sum(map(len, rows)), within, len(found.lanes) - len(lanes))


def _bars(lane: Lane, now: float, within: float | None, *, mixed: bool = False) -> list[Bar]:
    """The bars of a lane; neighbours that are ``within`` so many seconds share one, also ``mixed`` in outcome."""
    bars = list[Bar]()
    for run in lane.attempts:
        ended = now if run.ended is None else run.ended
        last = bars[-1] if bars else None
        if (
            last is not None and within is not None
            and (mixed or last.outcome == run.outcome) and run.began - last.ended <= within
            and ended - last.began <= 2 * within
        ):  # fmt: skip
            last.ended, last.runs = max(last.ended, ended), last.runs + 1
            last.outcome = max(last.outcome, run.outcome, key=_badness)
        else:
            bars.append(Bar(run.began, ended, run.outcome, run))
    return bars


def _badness(outcome: str) -> int:
    return "drcfl".index(css_class(outcome))


def _title(bar: Bar, begin: float) -> str:
    took, at = duration(bar.ended - bar.began), duration(bar.began - begin)
    what = bar.first.name if bar.runs == 1 else f"{bar.runs} futures from {bar.first.name} on"
    return text(f"{what}: {bar.outcome}, {took}, begun after {at}")


def _at(seconds: float, span: float) -> float:
    return min(_WIDTH, max(0.0, seconds / span * _WIDTH))


def _axis(left: float, height: float, span: float) -> str:
    """Vertical lines with their time since the beginning."""
    step = _round_step(span / 8)
    parts = list[str]()
    for index in range(int(span / step) + 1):
        x = left + _at(index * step, span)
        anchor = "" if index else ' style="text-anchor:start"'
        if x < left + _WIDTH - 20 or not index:
            parts.append(f'<text class="a" x="{x:.4g}" y="{height + 18}"{anchor}>{duration(index * step)}</text>')
        parts.append(f'<path class="g" d="M{x:.4g} 0v{height + 4}"/>')
    return "".join(parts)


def _round_step(minimum: float) -> float:
    steps = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800)
    return next((step for step in steps if step >= minimum), 3600.0 * max(1, round(minimum / 3600)))


def over_time(found: Figures) -> str:
    """Running and waiting futures over time, each on a scale of its own: thousands may wait for ten that run."""
    return _chart("run", found, found.running) + _chart("wait", found, found.waiting)


def _chart(verb: str, found: Figures, steps: Sequence[tuple[float, int]]) -> str:
    top = max((count for _, count in steps), default=0)
    if not top:
        return ""
    begin, span, height = found.begin, max(found.wall, 1e-3), 80.0
    left = 12 + _CHARACTER * max(6, len(f"{top:,}"))
    drawn = f"M{left:g} {height:g}" + "".join(
        f"H{left + x:.4g}V{height - height * count / top:.4g}" for x, count in _sampled(steps, begin, span)
    )
    parts = [_axis(left, height, span)]
    for count, y in ((top, 0.0), (0, height)):
        parts.append(f'<path class="g" d="M{left:g} {y:g}h{_WIDTH:g}"/>')
        parts.append(f'<text class="n" x="{left - 6:g}" y="{y + 4:g}">{count:,}</text>')
    about = f"Futures that {verb}, over {duration(span)}: at most {top:,} at once"
    return (
        f'<svg role="img" aria-label="{text(about)}" viewBox="0 -8 {left + _WIDTH + 12:g} {height + 30:g}">'
        f'{"".join(parts)}<path class="{verb[0]}" d="{drawn}H{left + _WIDTH:.4g}"/></svg>'
    )


def _sampled(steps: Sequence[tuple[float, int]], begin: float, span: float) -> Iterable[tuple[float, int]]:
    """The highest number in each of at most 300 equal parts of the time in which it changes, and the last one."""
    found: dict[int, int] = {}
    last: dict[int, int] = {}
    for at, count in steps:
        part = min(_STEPS - 1, max(0, int((at - begin) / span * _STEPS)))
        found[part] = max(found.get(part, last.get(part - 1, 0)), count)
        last[part] = count
    for part in sorted(found):
        yield part * _WIDTH / _STEPS, found[part]
        if part + 1 not in found:
            yield (part + 1) * _WIDTH / _STEPS, last[part]
