"""Generates from chart/values.schema.yaml: the JSON schema, the defaults, a test's case, and the README's tables.

    python -m ci.generate_chart

`make generate` runs it; a test compares the files with their source.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from common.paths import REPO

Schema = dict[str, Any]

CHART = REPO / "chart"
SOURCE = CHART / "values.schema.yaml"
SCHEMA_FILE = CHART / "values.schema.json"
VALUES_FILE = CHART / "values.yaml"
CASE_FILE = CHART / "ci" / "examples-values.yaml"
README = CHART / "README.md"

START = "<!-- Written by `make generate` from values.schema.yaml; do not edit. -->"
END = "<!-- End of what `make generate` writes. -->"
WIDTH = 120

VALUES_HEAD = """\
# Every value of the chart with its default.
# Written by `make generate` from values.schema.yaml; do not edit."""
CASE_HEAD = """\
# Every value of the chart at its example.
# Written by `make generate` from values.schema.yaml; do not edit.
"""
TABLE_HEAD = """
### {section}

| value | type | default | description | restarts |
| --- | --- | --- | --- | --- |"""


@dataclass(frozen=True)
class Value:
    """One value of the chart. path: its keys from the outermost. restarts: pods that a change of it restarts."""

    path: tuple[str, ...]
    section: str
    schema: Schema
    kind: str
    default: Any
    description: str
    example: Any
    restarts: tuple[str, ...]

    @property
    def name(self) -> str:
        """Path of the value, as users write it."""
        return ".".join(self.path)


def source() -> Schema:
    """The described schema."""
    loaded: Schema = yaml.safe_load(SOURCE.read_text())
    return loaded


def chart_values(schema: Schema) -> list[Value]:
    """Every value that has a default, in the order of the schema."""
    definitions = schema["definitions"]

    def below(properties: Schema, path: tuple[str, ...], section: str) -> Iterator[Value]:
        for key, described in properties.items():
            section = described.get("x-section", section)
            if "default" in described:
                yield Value(
                    path=(*path, key),
                    section=section,
                    schema=described,
                    kind=kind(described, definitions),
                    default=described["default"],
                    description=described["description"],
                    example=described["examples"][0],
                    restarts=tuple(described.get("x-restarts", ())),
                )
            elif "properties" in described:
                yield from below(described["properties"], (*path, key), section)

    return list(below(schema["properties"], (), ""))


def kind(described: Schema, definitions: Schema) -> str:
    """The type of a value in words, with its range."""
    resolved = {**definitions[described["$ref"].rpartition("/")[2]], **described} if "$ref" in described else described
    if "enum" in resolved:
        return " or ".join(f"`{choice}`" for choice in resolved["enum"])
    if resolved["type"] == "array":
        return "list of " + str(definitions[resolved["items"]["$ref"].rpartition("/")[2]]["title"])
    words = str(resolved.get("title", resolved["type"]))
    if "minimum" in resolved:
        words += f", {resolved['minimum']} to {resolved['maximum']}"
    return words


def json_schema(schema: Schema) -> str:
    """values.schema.json: the source without the keywords that only this generator reads."""

    def stripped(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: stripped(below) for key, below in part.items() if not key.startswith("x-")}
        return [stripped(below) for below in part] if isinstance(part, list) else part

    return json.dumps(stripped(schema), indent=2) + "\n"


def values_file(schema: Schema) -> str:
    """values.yaml: every default under a comment with description and example."""
    by_name = {value.name: value for value in chart_values(schema)}

    def below(properties: Schema, path: tuple[str, ...]) -> Iterator[str]:
        for key, described in properties.items():
            name, indent = ".".join((*path, key)), "  " * len(path)
            if not path and "x-section" in described:
                yield f"\n# -- {described['x-section']} --"
            if name in by_name:
                yield from comment(by_name[name].description, indent)
                if shows_example(by_name[name]):
                    yield f"{indent}# Example: {flow(by_name[name].example)}"
                yield from assigned(key, described["default"], indent)
            elif "properties" in described:
                yield from comment(described["description"], indent)
                yield f"{indent}{key}:"
                yield from below(described["properties"], (*path, key))

    return "\n".join([VALUES_HEAD, *below(schema["properties"], ())]) + "\n"


def case_file(schema: Schema) -> str:
    """A case of chart/ci with the example of each value: what a new value renders is checked without a file by hand.

    Image and Secret are those of the other cases.
    """
    values: Schema = {}
    for value in chart_values(schema):
        place = values
        for key in value.path[:-1]:
            place = place.setdefault(key, {})
        place[value.path[-1]] = value.example
    values |= yaml.safe_load((CASE_FILE.with_name("minimal-values.yaml")).read_text())
    return CASE_HEAD + yaml.safe_dump(values, sort_keys=False)


def shows_example(value: Value) -> bool:
    """Return True if the default does not show the form of a value."""
    return isinstance(value.default, list | dict) or value.default == ""


def flow(part: Any) -> str:
    """YAML on one line."""
    if part == "":
        return '""'
    text = yaml.safe_dump(part, default_flow_style=True, sort_keys=False, width=10**6)
    return str(text).removesuffix("...\n").strip()


def assigned(key: str, default: Any, indent: str) -> Iterator[str]:
    """The lines that give a key its default: a map of maps takes one line for each of its keys."""
    if isinstance(default, dict) and default:
        yield f"{indent}{key}:"
        yield from (f"{indent}  {below}: {flow(part)}" for below, part in default.items())
    else:
        yield f"{indent}{key}: {flow(default)}"


def comment(text: str, indent: str) -> list[str]:
    """A comment in lines of at most `WIDTH` characters."""
    return [f"{indent}# {line}" for line in textwrap.wrap(text, WIDTH - len(indent) - 2, break_on_hyphens=False)]


def tables(schema: Schema) -> str:
    """The README's tables: one a section, a row for each value."""
    lines: list[str] = []
    section = ""
    for value in chart_values(schema):
        if value.section != section:
            section = value.section
            lines.append(TABLE_HEAD.format(section=section))
        default = f"`{flow(value.default)}`"
        restarts = "scheduler, workers" if len(value.restarts) > 1 else ", ".join(value.restarts)
        description = value.description
        if isinstance(value.default, list | dict):
            description += f" Example: `{flow(value.example)}`"
        cells = (f"`{value.name}`", value.kind, default, description, restarts)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([*lines, ""])


def readme(text: str, schema: Schema) -> str:
    """The README with new tables. text: the README as it is."""
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise ValueError(f"{README.name} lacks the lines between which the tables stand: {START} and {END}")
    return f"{before}{START}\n{tables(schema)}\n{END}{after}"


def generated() -> dict[Path, str]:
    """The content of each generated file."""
    schema = source()
    return {
        SCHEMA_FILE: json_schema(schema),
        VALUES_FILE: values_file(schema),
        CASE_FILE: case_file(schema),
        README: readme(README.read_text(), schema),
    }


if __name__ == "__main__":
    for path, content in generated().items():
        path.write_text(content)
        print(f"wrote {path.relative_to(REPO)}")
