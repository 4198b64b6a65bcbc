"""The rendered objects of each installation in chart/ci, as files: a review sees all that a change of the chart does.

`minimal.yaml` is a whole manifest. The snapshot of another case holds only the objects that differ from it.
"""

import os
from pathlib import Path

import pytest

from tests.chart.conftest import CASES, CHART, VERSION, Helm

SNAPSHOTS = Path(__file__).with_name("snapshots")
UPDATE = "UPDATE_GOLDEN=1 .venv/bin/python -m pytest tests/chart/test_snapshots.py"


def rendered(helm: Helm, name: str) -> dict[str, str]:
    """The manifest of a case by template and name, from the case's file only: each must install by itself."""
    values = CHART / "ci" / f"{name}-values.yaml"
    manifest = helm.command("template", "lab", str(CHART), "--namespace", "team", "--values", str(values))
    documents = manifest.replace(f"future-kubernetes-{VERSION}", "future-kubernetes-VERSION").split("---\n")[1:]
    return {f"{document.splitlines()[0]} {name_in(document)}": document for document in documents}


def name_in(document: str) -> str:
    """The name in an object's metadata, which is the first one."""
    return next(line.strip() for line in document.splitlines() if line.startswith("  name: "))


def snapshot(helm: Helm, case: str) -> str:
    """The content of a case's snapshot."""
    minimal = {} if case == "minimal" else rendered(helm, "minimal")
    found = rendered(helm, case)
    without = [f"# Without {key.removeprefix('# ')}\n" for key in minimal if key not in found]
    return "".join([*without, *(f"---\n{text}" for key, text in found.items() if minimal.get(key) != text)])


@pytest.mark.parametrize("case", CASES)
def test_the_manifest_of_a_case_is_its_snapshot(helm: Helm, case: str) -> None:
    golden = SNAPSHOTS / f"{case}.yaml"
    found = snapshot(helm, case)
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(found)
    assert found == golden.read_text(), f"if this change is meant: {UPDATE}"


def test_every_snapshot_belongs_to_a_case() -> None:
    assert {path.stem for path in SNAPSHOTS.iterdir()} == set(CASES)
