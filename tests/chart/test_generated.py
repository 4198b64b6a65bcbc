"""Files generated from chart/values.schema.yaml are up to date, and the source describes every value."""

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from ci.generate_chart import Value, chart_values, generated, readme, source
from tests.chart.conftest import CHART, MINIMAL, VERSION, Helm

SCHEMA = source()
VALUES = chart_values(SCHEMA)


def objects_of(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every part of a schema that describes an object with known keys."""
    if isinstance(schema, dict):
        if isinstance(schema.get("properties"), dict):
            yield path, schema
        for key, below in schema.items():
            yield from objects_of(below, f"{path}/{key}")


@pytest.mark.parametrize("path", generated(), ids=lambda path: path.name)
def test_a_generated_file_is_what_its_source_makes(path: Path) -> None:
    assert path.read_text() == generated()[path], "run: make generate"


def test_a_readme_without_room_for_the_tables_is_refused() -> None:
    with pytest.raises(ValueError, match="lacks the lines"):
        readme("# Chart\n", SCHEMA)


def test_the_schema_is_valid_and_closed_everywhere() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    found = dict(objects_of(SCHEMA))
    assert len(found) > 15
    for path, described in found.items():
        # A condition repeats keys of the object that it belongs to.
        assert path.endswith("/not") or described.get("additionalProperties") is False, path


def test_every_default_has_the_type_and_range_of_the_schema() -> None:
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    jsonschema.validate(defaults, SCHEMA)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**defaults, "idleMinutes": "0"}, SCHEMA)


def test_every_key_of_the_schema_has_default_and_description() -> None:
    known = {value.name for value in VALUES}

    def missing(properties: dict[str, Any], path: str = "") -> Iterator[str]:
        for key, described in properties.items():
            if not described.get("description"):
                yield f"{path}{key} has no description"
            if "properties" in described:
                yield from missing(described["properties"], f"{path}{key}.")
            elif f"{path}{key}" not in known:
                yield f"{path}{key} has no default"

    assert list(missing(SCHEMA["properties"])) == ["global has no default"]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: value.name)
def test_values_description_is_a_sentence_and_example_is_valid(value: Value) -> None:
    assert value.description[0].isupper()
    assert value.description.endswith(".")
    assert set(value.restarts) <= {"scheduler", "workers"}
    assert value.example != value.default
    jsonschema.validate(value.example, {**value.schema, "definitions": SCHEMA["definitions"]})


def test_the_packaged_chart_holds_what_helm_needs_and_nothing_else(helm: Helm, tmp_path: Path) -> None:
    done = helm.run("lint", str(CHART), values=MINIMAL)
    assert done.returncode == 0, done.stdout
    helm.command("package", str(CHART), "--destination", str(tmp_path))
    with tarfile.open(tmp_path / f"future-kubernetes-{VERSION}.tgz") as package:
        names = {Path(name).relative_to("future-kubernetes").parts[0] for name in package.getnames()}
    assert names == {
        ".helmignore",
        "Chart.yaml",
        "NEWS.md",
        "README.md",
        "dashboard.json",
        "templates",
        "values.schema.json",
        "values.yaml",
    }


def test_news_describe_the_charts_version() -> None:
    assert f"\n## {VERSION}\n" in (CHART / "NEWS.md").read_text()
