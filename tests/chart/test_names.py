"""The names of objects, which must be unique and short enough."""

import pytest

from tests.chart.conftest import CASES, Helm
from tests.chart.manifest import Objects


def names(objects: Objects) -> set[tuple[str, str]]:
    return set(objects)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("lab", "lab2"),
        ("a", "b"),
        ("department-of-statistics-course-152-a", "department-of-statistics-course-152-b"),
        (53 * "a", 52 * "a" + "b"),
    ],
)
def test_two_releases_in_one_namespace_share_no_name(helm: Helm, first: str, second: str) -> None:
    case = {**CASES["host"], **CASES["shared"], **CASES["quota"]}
    one_release, other = helm.objects(case, release=first), helm.objects(case, release=second)
    assert len(one_release) == len(other) == 18
    assert not names(one_release) & names(other)


def test_release_name_that_contains_the_charts_is_not_repeated(helm: Helm) -> None:
    found = helm.objects({}, release="my-future-kubernetes")
    assert ("Deployment", "my-future-kubernetes-worker") in found


def test_an_override_gives_the_names_of_the_recipe(helm: Helm) -> None:
    assert ("Service", "future-scheduler") in helm.objects({"fullnameOverride": "future"})


@pytest.mark.parametrize("release", ["a", "r-" + 20 * "ab", 53 * "a", 28 * "a" + "-" + 20 * "b"])
def test_pod_names_fit_a_host_name(helm: Helm, release: str) -> None:
    # Kubernetes appends "-" and a hash of at most 10 characters, then "-" and 5 more; it cuts the host name at 63, and
    # workers cut so could no longer be told apart.
    for kind, name in helm.objects({}, release=release):
        assert len(name) <= 63
        assert "--" not in name
        if kind == "Deployment":
            assert len(name) + 17 <= 63
