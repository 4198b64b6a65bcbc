"""Report of a preview for a pull request: what would change, `hourlyCost` before and after, the policy pack's findings.

Made from the engine's events (sdk/go/common/apitype/events.go in pulumi/pulumi). Names of resources and of properties
are shown without values, except the cost: a value may be a secret that is not marked as one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pulumi.automation.events import EngineEvent, PolicyEvent, StepEventMetadata, StepEventStateMetadata

STACK_TYPE = "pulumi:pulumi:Stack"
UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
"""Stands in events for a string that only an update computes (sdk/go/common/resource/plugin/rpc.go)."""

SHOWN = 100
"""Most resources that a report lists; GitHub takes 65,536 characters of a comment."""

SIGNS = {"create": "+", "import": "=", "update": "~", "replace": "+-", "delete": "-"}


@dataclass
class Preview:
    """Summary of a preview's events."""

    changes: list[StepEventMetadata] = field(default_factory=list)
    findings: list[PolicyEvent] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    cost_before: str = "none"
    cost_after: str = "not computed"
    complete: bool = False

    @classmethod
    def of(cls, events: Iterable[EngineEvent]) -> Preview:
        """Return the summary of the events, in any order of policy and resource events."""
        preview = cls()
        for event in events:
            if event.resource_pre_event and event.resource_pre_event.metadata.type != STACK_TYPE:
                step = event.resource_pre_event.metadata
                if step.op.value in SIGNS:
                    preview.changes.append(step)
            if event.res_outputs_event and event.res_outputs_event.metadata.type == STACK_TYPE:
                step = event.res_outputs_event.metadata
                preview.cost_before = _cost(step.old, "none")
                preview.cost_after = _cost(step.new, "not computed")
            if event.policy_event:
                preview.findings.append(event.policy_event)
            if event.diagnostic_event and event.diagnostic_event.severity == "error":
                preview.errors.append(event.diagnostic_event.message)
            if event.summary_event:
                preview.complete = True
        return preview


def _cost(state: StepEventStateMetadata | None, missing: str) -> str:
    cost: Any = (state.outputs or {}).get("hourlyCost") if state else None
    if cost is None:
        return missing
    if cost == UNKNOWN:
        return "known after the update"
    # A text in the state of a stack that was last updated before the output was a map.
    return f"{cost['now']} now, {cost['idle']} idle, {cost['max']} at most" if _is_map(cost) else str(cost)


def _is_map(cost: object) -> bool:
    return isinstance(cost, dict) and {"now", "idle", "max"} <= set(cost)


def read_events(file: Path) -> list[EngineEvent]:
    """Return the events of a log that `pulumi preview --event-log` wrote, one JSON document a line."""
    if not file.exists():
        return []
    return [EngineEvent.from_json(json.loads(line)) for line in file.read_text().splitlines() if line.strip()]


def report(stack: str, preview: Preview, failed: bool = False) -> str:
    """Return the report as Markdown."""
    counts = Counter(step.op.value for step in preview.changes)
    total = ", ".join(f"{counts[op]} to {op}" for op in SIGNS if counts[op]) or "no change"
    lines = [f"### Preview of stack {_code(stack)}: {total}", ""]
    if failed or not preview.complete:
        lines += ["**The preview failed**, so this is not all that would change. The log has the reason.", ""]
        lines += [f"- {_code(error)}" for error in preview.errors[:10]] + [""] * bool(preview.errors)
    lines += [f"`hourlyCost`: {_code(preview.cost_before)} before, {_code(preview.cost_after)} after", ""]
    lines += _findings(preview.findings) + _changes(preview.changes)
    return "\n".join(lines).rstrip() + "\n"


def _findings(findings: Sequence[PolicyEvent]) -> list[str]:
    if not findings:
        return ["Policy pack: no findings.", ""]
    rows = [
        f"| {_cell(each.enforcement_level)} | {_cell(each.policy_name)} | {_cell(_name(each.resource_urn or ''))} "
        f"| {_cell(each.message)} |"
        for each in findings[:SHOWN]
    ]
    head = [
        f"Policy pack: {len(findings)} findings.",
        "",
        "| level | policy | resource | finding |",
        "|" + " --- |" * 4,
    ]
    return [*head, *rows, ""]


def _changes(changes: Sequence[StepEventMetadata]) -> list[str]:
    if not changes:
        return []
    rows = [
        f"| {SIGNS[step.op.value]} {step.op.value} | {_cell(step.type)} | {_cell(_name(step.urn))} "
        f"| {', '.join(_cell(key) for key in _properties(step))} |"
        for step in changes[:SHOWN]
    ]
    more = [f"... and {len(changes) - SHOWN} more: see the log.", ""] if len(changes) > SHOWN else []
    head = ["<details><summary>Resources</summary>", "", "| change | type | name | properties |", "|" + " --- |" * 4]
    return [*head, *rows, "", *more, "</details>"]


def _properties(step: StepEventMetadata) -> list[str]:
    keys: Iterable[Any] = step.detailed_diff or step.diffs or step.keys or ()
    found = sorted(str(key) for key in keys)
    return [*found[:8], "..."] if len(found) > 8 else found


def _name(urn: str) -> str:
    return urn.rpartition("::")[2]


def _cell(text: str) -> str:
    return _code(text.replace("|", "\\|"))


def _code(text: str) -> str:
    """Return text as code, cut to a line: whatever a resource is called, it renders as itself and mentions no user."""
    line = " ".join(text.replace("`", "'").split())
    return f"`{line[:200] or ' '}`"
