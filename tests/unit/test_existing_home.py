"""The home's claim on an existing cluster: kept at destroy, and never asked for what Kubernetes refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.clouds.allocatable import Allocatable
from components.clouds.existing import cluster as existing
from components.clouds.existing import home, local
from tests.unit.cloud_mocks import unchecked
from tests.unit.existing_clusters import CAMPUS, LOCAL, nodes, printing, program, refusal, values, write_kubectl

__all__ = ["nodes"]

GUEST = {**CAMPUS, "namespace": "statistics", "createNamespace": "false"}
FORBIDDEN = "Error from server (Forbidden): persistentvolumeclaims is forbidden"
NOT_FOUND = "Error from server (NotFound): persistentvolumeclaims not found"


@pytest.fixture
def cluster(nodes: list[Allocatable], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Path]:
    """A kubectl that has a claim of 10 GiB; returns the file with its calls."""
    for module in (existing, local):
        monkeypatch.setattr(module, "check_home", home.check_home)
    monkeypatch.setenv("FUTURE_KUBERNETES_BIN", str(tmp_path))

    def answer(*, size: str = "10Gi", expands: bool | None = True, claim: str = "", classes: str = "") -> Path:
        spec = {"resources": {"requests": {"storage": size}}, "storageClassName": "campus-disks"}
        (tmp_path / "claim").write_text(json.dumps({"spec": spec}))
        found: dict[str, Any] = {} if expands is None else {"allowVolumeExpansion": expands}
        (tmp_path / "class").write_text(json.dumps(found))
        return write_kubectl(
            tmp_path,
            {
                "*' pvc '*": printing(tmp_path / "claim", claim),
                "*' storageclass '*": printing(tmp_path / "class", classes),
            },
        )

    return answer


def test_claim_stays_with_keep_home_and_the_output_names_it(cluster: Callable[..., Path]) -> None:
    cluster()
    kept, lost = program({**GUEST, "keepHome": "true"}), program(GUEST)
    assert values(kept)["scheduler"]["keepHome"] is True
    assert "keepHome" not in values(lost)["scheduler"]
    assert kept.outputs["home"][0] == (
        "kept: pulumi destroy leaves claim future-dev-home in namespace statistics, which the next pulumi up uses"
    )
    assert lost.outputs["home"][0].startswith("deleted by pulumi destroy")
    assert program(LOCAL).outputs["home"][0].startswith("deleted by pulumi destroy: copy files out first")


def test_keep_home_is_refused_where_namespace_goes_with_stack(nodes: list[Allocatable]) -> None:
    text = refusal({**CAMPUS, "keepHome": "true"})
    assert "pulumi destroy deletes every claim in it" in text
    assert "pulumi config set createNamespace false" in text
    assert "keepHome" in refusal({**LOCAL, "keepHome": "true"}), "this machine has nothing that outlives its cluster"
    assert "homeGiB is 0" in refusal({**GUEST, "keepHome": "true", "homeGiB": "0"})


def test_smaller_home_is_refused(cluster: Callable[..., Path]) -> None:
    calls = cluster(size="20Gi")
    for config in (GUEST, LOCAL):
        text = refusal(config)
        assert "homeGiB is 10, and claim future-dev-home" in text
        assert "pulumi config set homeGiB 20" in text
    assert "get pvc future-dev-home --namespace statistics --output json" in calls.read_text()


@pytest.mark.parametrize("expands", [False, None])
def test_larger_home_is_refused_where_its_storage_class_expands_nothing(
    cluster: Callable[..., Path], expands: bool | None
) -> None:
    cluster(expands=expands)
    text = refusal({**GUEST, "homeGiB": "20"})
    assert "of storage class campus-disks, which expands no volume" in text
    assert "pulumi config set homeGiB 10" in text


def test_larger_home_is_passed_on_where_its_storage_class_expands(cluster: Callable[..., Path]) -> None:
    cluster(expands=True)
    assert values(program({**GUEST, "homeGiB": "20"}))["scheduler"]["homeGiB"] == 20


def test_unchanged_home_asks_for_no_storage_class(cluster: Callable[..., Path]) -> None:
    calls = cluster(expands=False)
    program(GUEST)
    assert "storageclass" not in calls.read_text()


def test_first_home_is_not_checked_and_hidden_one_is_reported(cluster: Callable[..., Path]) -> None:
    cluster(claim=NOT_FOUND)
    assert unchecked(program({**GUEST, "homeGiB": "1"})) == ""
    cluster(claim=FORBIDDEN)
    assert "whether claim future-dev-home in namespace statistics can have 1 GiB" in unchecked(
        program({**GUEST, "homeGiB": "1"})
    )
    cluster(classes=FORBIDDEN)
    assert "whether storage class campus-disks can expand volumes" in unchecked(program({**GUEST, "homeGiB": "20"}))


def test_home_that_a_setting_takes_away_is_warned_of(cluster: Callable[..., Path]) -> None:
    cluster()
    (warning,) = [text for text in program({**GUEST, "homeGiB": "0"}).warnings if "homeGiB" in text]
    assert "without keepHome its files are deleted" in warning
