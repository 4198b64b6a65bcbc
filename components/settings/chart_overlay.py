"""Checks `chartValues`, the map that is laid over the chart's values, against the chart's own schema.

jsonschema is imported only where the setting is used: most stacks do without it.
"""

from __future__ import annotations

import difflib
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from common.paths import REPO
from components.settings.errors import Problem
from components.settings.keys import Key

if TYPE_CHECKING:
    from jsonschema import ValidationError

SCHEMA = REPO / "chart" / "values.schema.json"

KEY = "chartValues"

OWNED: Mapping[str, tuple[str, str]] = {
    "image": ("image", "pods run it by its digest"),
    "auth": ("password", "secrets are kept out of Helm's values"),
    "fullnameOverride": ("", "it is made from the stack's name"),
    "scheduler.keepHome": ("keepHome", ""),
    "scheduler.resources.requests.cpu": ("schedulerCpu", "nodes are sized by it"),
    "scheduler.resources.requests.memory": ("schedulerMemoryGiB", "nodes are sized by it"),
    "scheduler.resources.limits.memory": ("schedulerMemoryGiB", "nodes are sized by it"),
    "oidc.existingSecret": ("oidcClientSecret", "secrets are kept out of Helm's values"),
    "oidc.users": ("oidcUsers", ""),
    "oidc.secretVersion": ("", "it changes with oidcClientSecret"),
    "networkPolicy.identityServer": ("", "it follows from buckets"),
    "worker.warmReplicas": ("warmWorkers", "nodes and costs are counted by it"),
    "worker.resources.requests.cpu": ("workerCpu", "nodes are sized by it"),
    "worker.resources.requests.memory": ("workerMemoryGiB", "nodes are sized by it"),
    "worker.resources.limits.memory": ("workerMemoryGiB", "nodes are sized by it"),
}
"""Chart values that the program computes, each with the config key that it depends on, and the reason."""


def owned_values(keys: Mapping[str, Key]) -> dict[str, tuple[str, str]]:
    """Chart values that the program guarantees: those of `OWNED`, and those of the settings that are passed on."""
    return {**OWNED, **{key.chart: (name, "") for name, key in keys.items() if key.chart}}


def chart_value_problems(overlay: Mapping[str, Any], keys: Mapping[str, Key]) -> Iterator[Problem]:
    """Every value that the chart's schema refuses, and every one that the program guarantees. keys: of the model."""
    if not overlay:
        return
    import jsonschema

    guaranteed = owned_values(keys)
    # A value whose setting this cloud does not have is the user's.
    owned = [path for path, (key, _) in guaranteed.items() if holds(overlay, path) and (not key or key in keys)]
    for path in owned:
        key, reason = guaranteed[path]
        fix = f"pulumi config rm --path {KEY}.{path}" + (f" && {keys[key].command()}" if key else "")
        owner = f"the setting {key}" if key else "the program"
        allowed = f"only {owner} may set it" + (f" ({reason})" if reason else "")
        yield Problem(f"{KEY}.{path}", "set", allowed, fix)
    schema = json.loads(SCHEMA.read_text())
    for error in sorted(jsonschema.Draft7Validator(schema).iter_errors(overlay), key=lambda error: str(error.path)):
        # A value that may not be set needs no second message on its type.
        yield from (wrong for wrong in problems_of(error) if not is_below(wrong.key, owned))


def is_below(key: str, owned: Sequence[str]) -> bool:
    """True if a problem's key is one of the owned paths, or lies below one."""
    return any(f"{key}.".startswith(f"{KEY}.{path}.") for path in owned)


def holds(overlay: Any, path: str) -> bool:
    """True if `overlay` has a value at a dotted path."""
    for part in path.split("."):
        if not isinstance(overlay, Mapping) or part not in overlay:
            return False
        overlay = overlay[part]
    return True


def problems_of(error: ValidationError) -> Iterator[Problem]:
    """The problems behind one error of jsonschema: one for each unknown value, or the one of a wrong value."""
    path = KEY + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)
    known = list(schema_of(error).get("properties", ()))
    if error.validator == "additionalProperties" and known:
        for name in sorted(set(cast(dict[str, Any], error.instance)) - set(known)):
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            remove = f"pulumi config rm --path {shlex.quote(f'{path}.{name}')}"
            yield Problem(f"{path}.{name}", None, f"no such value of the chart; {hint}", remove)
    else:
        fix = f"pulumi config set --path {shlex.quote(path)} VALUE"
        yield Problem(path, repr(error.instance), words(error), fix)


def schema_of(error: ValidationError) -> dict[str, Any]:
    """The part of the schema that was broken."""
    return error.schema if isinstance(error.schema, dict) else {}


NOUNS = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "string": "text",
    "object": "a map",
    "array": "a list",
}


def words(error: ValidationError) -> str:
    """The allowed values by the schema, as a noun; jsonschema's own message if the rule is not a simple type."""
    schema = schema_of(error)
    if error.validator == "enum":
        return "one of " + ", ".join(map(repr, schema["enum"]))
    if error.validator not in ("type", "minimum", "maximum", "pattern") or schema.get("type") not in NOUNS:
        return f"what chart/values.schema.json allows ({error.message})"
    noun = NOUNS[schema["type"]]
    if "minimum" in schema:
        minimum = schema["minimum"]
        return f"{noun} from {minimum} to {schema['maximum']}" if "maximum" in schema else f"{noun}, at least {minimum}"
    return f"{noun} that matches {schema['pattern']}" if "pattern" in schema else noun
