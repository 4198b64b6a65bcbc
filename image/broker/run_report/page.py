"""The HTML file of a report: one file that asks no other host for anything, and has no script. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from ..page.words import cure, cut
from .figures import Attempt, Figures
from .stream import MAX_BARS, MAX_LANES, css_class, over_time, stream
from .text import duration, moment, number, percent, size, text

MARK = '<meta name="generator" content="future.kubernetes report">'
"""Line by which a file is known as a report, which the next one may replace."""
_STYLE = Path(__file__).with_name("report.css")
_SLOWEST = 20
_GROUPS = 20
_WORKERS = 150
_LOSSES = 20
_LEGEND = (
    ("done", "gave a result"), ("failed", "gave none"), ("lost", "lost with its worker"),
    ("cancelled", "cancelled"), ("running", "still runs"),
)  # fmt: skip
_FAILURES = {
    "unread": "data that the worker could not read", "setup": "code of 'setup' that failed",
    "unsent": "a result that could not be sent", "unkept": "a result that the disk had no room for",
    "refused": "data that the scheduler could not take", "lost": "lost for good with a worker",
}  # fmt: skip


def page(found: Figures, title: str, price: float | None) -> str:
    """The whole file. ``price`` is that of a worker and hour, None where it is not known."""
    title = cut(title) or "Futures"
    sections = _sections(found, price) if found.outcomes else [_note("No future is known for this time.")]
    return "\n".join([
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">', MARK,
        # No script, no other host, no form: a label that slipped through could not act either.
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'\">",
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        f"<title>{text(title)}</title>\n<style>\n{_STYLE.read_text()}</style>\n</head>\n<body>",
        f"<header>\n<h1>{text(title)}</h1>\n<p>{text(_period(found))}</p>\n</header>\n<main>",
        *_limits(found), *sections,
        "</main>\n</body>\n</html>\n",
    ])  # fmt: skip


def summary(found: Figures, price: float | None) -> list[str]:
    """The figures in a few lines, for R to print."""
    if not found.outcomes:
        return ["no future is known for this time"]
    lines = [
        f"{number(sum(found.outcomes.values()), 'future')} in {duration(found.wall)}: {_outcomes(found)}",
        f"efficiency {_efficiency(found)}: ideal {duration(found.ideal)} on {number(found.peak_workers, 'worker')}; "
        f"{duration(found.useful)} of work, CPU time {_cpu(found)} of {_cpu_of(found)}",
        f"cost {_cost(found, price)}",
    ]
    if found.losses:
        lines.insert(1, f"{number(len(found.losses), 'loss').replace('losss', 'losses')} of a worker with its future")
    return lines + [f"note: {limit}" for limit in _limits_in_words(found)]


def _period(found: Figures) -> str:
    return f"{moment(found.begin)} to {moment(found.end)}" + (
        ", still running" if {"waiting", "running"} & found.outcomes.keys() else ""
    )


def _limits_in_words(found: Figures) -> list[str]:
    """Sentences on what this report does not hold."""
    limits = []
    if not found.complete:
        limits.append(
            f"The broker has events since {moment(found.held_since)} only: it keeps those of the last hour, at most "
            "40,000, and none from before its own start. What futures did before is not in this report."
        )
    if found.unseen:
        limits.append(
            f"{number(found.unseen, 'future')} ended here and began before the first event that is known: counted, "
            "and in no time below."
        )
    return limits


def _limits(found: Figures) -> list[str]:
    return [_note(limit) for limit in _limits_in_words(found)]


def _note(words: str) -> str:
    return f'<p class="note">{text(words)}</p>'


def _outcomes(found: Figures) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in sorted(found.outcomes.items(), key=lambda item: -item[1]))


def _efficiency(found: Figures) -> str:
    return "unknown" if found.efficiency is None else percent(found.efficiency)


def _cpu(found: Figures) -> str:
    return "unknown" if found.cpu is None else duration(found.cpu)


def _cpu_of(found: Figures) -> str:
    """Number of runs that the CPU time is of: R does not say it where a worker was lost."""
    ended = sum(run.outcome != "running" for run in found.attempts)
    return number(ended, "run") if found.cpu_of == ended else f"{found.cpu_of:,} of {number(ended, 'run')}"


def _cost(found: Figures, price: float | None) -> str:
    hours = found.worker_seconds / 3600
    if price is None:
        return f"unknown: {hours:.3g} worker-hours, and no price of one is given"
    return f"{_money(hours * price)}: {hours:.3g} worker-hours at {price:g} each, the price that was given"


def _money(amount: float) -> str:
    return f"{amount:.2f}" if amount >= 0.1 or not amount else f"{amount:.2g}"


def _sections(found: Figures, price: float | None) -> Iterable[str]:
    yield _tiles(found, price)
    yield _where_the_time_went(found)
    drawn = over_time(found)
    if drawn:
        yield _section(
            "Running and waiting",
            f'<ul class="legend"><li><i class="r"></i>run</li><li><i class="w"></i>wait</li></ul><div class="wide" '
            f'tabindex="0" role="region" aria-label="Running and waiting, a drawing">{drawn}</div>',
        )
    if found.attempts:
        yield _stream(found)
        yield _by_label(found)
        yield _slowest(found)
    yield _losses(found)
    if found.lanes:
        yield _workers(found)
    yield _how(found)


def _section(heading: str, body: str) -> str:
    name = "h-" + heading.lower().replace(" ", "-")
    return f'<section aria-labelledby="{name}">\n<h2 id="{name}">{heading}</h2>\n{body}\n</section>'


def _tiles(found: Figures, price: float | None) -> str:
    hours = found.worker_seconds / 3600
    tiles = [
        ("Futures", f"{sum(found.outcomes.values()):,}", _outcomes(found)),
        ("Wall time", duration(found.wall), "from the first submission to the last end"),
        ("Efficiency", _efficiency(found), f"ideal {duration(found.ideal)} on {number(found.peak_workers, 'worker')}"),
        ("CPU time", _cpu(found), f"of {_cpu_of(found)}, which took {duration(found.useful + found.wasted)}"),
        ("Bytes moved", size(found.sent + found.objects + found.received),
         f"{size(found.sent)} of futures, {size(found.objects)} of large objects to workers, "
         f"{size(found.received)} of results"),
        ("Losses", f"{len(found.losses):,}", "runs that ended with their worker"),
        ("Cost", "unknown" if price is None else _money(hours * price),
         f"{hours:.3g} worker-hours, " + ("and no price of one is given" if price is None else f"{price:g} each")),
    ]  # fmt: skip
    rows = "".join(f"<div><dt>{name}</dt><dd>{text(value)}<small>{text(more)}</small></dd></div>"
                   for name, value, more in tiles)  # fmt: skip
    return f'<section aria-label="Figures"><dl class="tiles">{rows}</dl></section>'


def _where_the_time_went(found: Figures) -> str:
    """Worker time from the first submission to the last end, split up."""
    whole = found.wall * found.peak_workers
    if whole <= 0:
        return ""
    still = sum(run.seconds(found.end) for run in found.attempts if run.outcome == "running")
    start = min(whole, found.first_wait * found.peak_workers)
    rows = [
        ("runs that gave a result", found.useful), ("runs that gave none", found.wasted), ("runs that go on", still),
        ("wait for the first run", start),
        ("no run: later starts, pauses between futures, and the end of the last ones",
         max(0.0, whole - found.useful - found.wasted - still - start)),
    ]  # fmt: skip
    body = _table(
        "Where the time of the workers went",
        ("Time of", "Time", "Share"),
        [(name, duration(seconds), percent(seconds / whole)) for name, seconds in rows if seconds > 0],
    )
    return _section(
        "Where the time went",
        f"<p>{text(duration(found.wall))} on {number(found.peak_workers, 'worker')}, as many as ran at once.</p>{body}",
    )


def _stream(found: Figures) -> str:
    drawn = stream(found)
    seen = {css_class(run.outcome) for run in found.attempts}
    legend = "".join(
        f'<li><i class="{css_class(name)}"></i>{words}</li>' for name, words in _LEGEND if css_class(name) in seen
    )
    said = [f"One lane a worker. {number(len(found.attempts), 'run')} in {number(drawn.bars, 'bar')}."]
    if drawn.merged_within:
        said.append(
            f"At most {MAX_BARS:,} bars are drawn: neighbours within {duration(drawn.merged_within)} share one, in "
            "the colour of the worst of them."
        )
    if drawn.lanes_left_out:
        said.append(f"Of {len(found.lanes):,} workers the {MAX_LANES} busiest are drawn.")
    return _section(
        "Task stream",
        f'<ul class="legend">{legend}</ul><p>{text(" ".join(said))}</p>'
        f'<div class="wide" tabindex="0" role="region" aria-label="Task stream, a drawing">{drawn.svg}</div>',
    )


def _by_label(found: Figures) -> str:
    rows = [
        (cut(group.name) or "no label", f"{group.attempts:,}", duration(group.seconds),
         duration(group.seconds / group.attempts), duration(group.longest),
         duration(group.cpu) if group.cpu_known else "unknown",
         f"{group.peak_mib:,} MiB" if group.peak_mib else "unknown", f"{group.bad:,}")
        for group in found.groups[:_GROUPS]
    ]  # fmt: skip
    rest = found.groups[_GROUPS:]
    more = f"<p>The {_GROUPS} with most time of {len(found.groups):,}.</p>" if rest else ""
    heads = ("Label", "Runs", "Time", "Mean", "Longest", "CPU time", "Peak memory", "No result")
    return _section("By label", more + _table("Futures by label, without the number at its end", heads, rows))


def _slowest(found: Figures) -> str:
    runs = sorted(found.attempts, key=lambda run: -run.seconds(found.end))[:_SLOWEST]
    return _section("Slowest futures", _table(
        "Slowest futures",
        ("Future", "Worker", "Outcome", "Waited", "Ran", "CPU time", "Peak memory", "Result"),
        [_run_row(run, found.end) for run in runs],
    ))  # fmt: skip


def _run_row(run: Attempt, now: float) -> Sequence[str]:
    return (
        run.name + (f" (attempt {run.attempt})" if run.attempt > 1 else ""), run.worker, run.outcome,
        "unknown" if run.waited is None else duration(run.waited), duration(run.seconds(now)),
        "unknown" if run.cpu is None else duration(run.cpu),
        f"{run.peak_mib:,} MiB" if run.peak_mib else "unknown", size(run.result) if run.outcome == "done" else "",
    )  # fmt: skip


def _losses(found: Figures) -> str:
    failures = [(words, found.outcomes[name]) for name, words in _FAILURES.items() if name in found.outcomes]
    body = "".join(f"<p>{number(count, 'future')} gave no result: {text(words)}.</p>" for words, count in failures)
    if not found.losses:
        return _section("Losses", body + "<p>No worker was lost with a future.</p>")
    last = found.losses[-_LOSSES:]
    if len(last) < len(found.losses):
        body += f"<p>The last {_LOSSES} of {len(found.losses):,}.</p>"
    rows = [
        (run.name, run.worker, duration(max(0.0, (run.ended or run.began) - found.begin)), run.reason[:300],
         cure(run.reason))
        for run in last
    ]  # fmt: skip
    return _section("Losses", body + _table("Losses", ("Future", "Worker", "After", "Reason", "What helps"), rows))


def _workers(found: Figures) -> str:
    lanes = sorted(found.lanes, key=lambda lane: -lane.busy)[:_WORKERS]
    rows = [
        (lane.worker, f"{len(lane.attempts):,}", duration(lane.busy), duration(lane.ended - lane.began),
         percent(min(1.0, lane.busy / (lane.ended - lane.began))) if lane.ended > lane.began else "")
        for lane in lanes
    ]  # fmt: skip
    more = f"<p>The {_WORKERS} busiest of {len(found.lanes):,}.</p>" if len(lanes) < len(found.lanes) else ""
    heads = ("Worker", "Runs", "Running", "From first to last", "Busy of that")
    return _section("Workers", more + _table("Workers", heads, rows))


def _table(name: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{text(cell)}</th>' for cell in heads)
    body = "\n".join(
        f'<tr><th scope="row">{text(row[0])}</th>' + "".join(f"<td>{text(cell)}</td>" for cell in row[1:]) + "</tr>"
        for row in rows
    )
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{text(name)}, a table"><table><caption>{text(name)}'
        f"</caption><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>"
    )


def _how(found: Figures) -> str:
    of = "a batch run" if found.scope.run else "one R session"
    said = [
        f"These are the futures of plan(kubernetes) in {of}, as the broker saw them. Workers of plan(cluster) are not "
        "in it: their futures do not pass through the broker.",
        "Ideal is the time of all runs that gave a result, divided by the most workers that ran at once, and at least "
        "the longest run. Efficiency is ideal over wall time.",
        "A result can be an error of the future's own code. A run gave none if its worker was lost, if it was "
        "cancelled, or if data or result could not be sent.",
        "CPU time is that of the future's R process, and of the child processes that it has waited for, in steps of "
        "10 ms. Peak memory is that of the R process only.",
        "Bytes are those of futures with their data, of large objects to each worker, and of results from workers. "
        "What had not to be sent again is not in it, nor are packages that workers ask for.",
        "A worker-hour counts from a worker's first run to the end of its last one here. Time in which nodes start or "
        "stand idle, the scheduler, disks and traffic are not in it: the cloud's bill has those.",
    ]
    return _section("How this is counted", "<ul>" + "".join(f"<li>{text(words)}</li>" for words in said) + "</ul>")
