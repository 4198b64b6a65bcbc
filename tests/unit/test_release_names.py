"""Names, types and parents of the release's resources. Another one would replace them in stacks that are up."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.release.release import chart_hash
from tests.unit.existing_clusters import LOCAL, nodes, program
from tests.unit.google_cloud import gke

__all__ = ["nodes"]


@pytest.mark.usefixtures("nodes")
def test_release_has_names_and_types_of_running_stacks() -> None:
    recording = program({**LOCAL, "environment": {"PGHOST": "db.example.org"}})
    release = recording.one("index:Release")
    inside = {(found.type, found.name) for found in recording.resources if found.parent == release.urn}
    assert (release.type, release.name) == ("future-kubernetes:index:Release", "future-dev")
    assert inside == {
        ("kubernetes:core/v1:Namespace", "future-dev"),
        ("kubernetes:core/v1:Secret", "future-dev"),
        ("kubernetes:core/v1:Secret", "future-dev-environment"),
        ("kubernetes:helm.sh/v3:Release", "future-dev"),
        ("random:index/randomPassword:RandomPassword", "future-dev-password"),
        ("random:index/randomPassword:RandomPassword", "future-dev-token"),
    }


@pytest.mark.usefixtures("installed_tools")
def test_claim_of_shared_files_is_the_releases_with_smallest_size() -> None:
    recording = gke({"sharedGiB": 1024})
    claim = recording.one("PersistentVolumeClaim", "-shared")
    assert (claim.type, claim.name) == ("kubernetes:core/v1:PersistentVolumeClaim", "future-team-shared")
    assert claim.parent == recording.one("index:Release").urn
    assert (claim.inputs["apiVersion"], claim.inputs["kind"]) == ("v1", "PersistentVolumeClaim")
    assert claim.inputs["metadata"]["namespace"] == "future-team"
    assert claim.inputs["spec"]["resources"] == {"requests": {"storage": "1Gi"}}, "the volume's size counts"


def test_same_bytes_split_otherwise_between_files_are_another_chart(tmp_path: Path) -> None:
    hashes = set()
    for number, (one, other) in enumerate((("ab", "c"), ("a", "bc"))):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "1.yaml").write_text(one)
        (folder / "2.yaml").write_text(other)
        hashes.add(chart_hash(folder))
    assert len(hashes) == 2
