"""Settings together: every wrong one is reported at once, and those that contradict each other."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from components.clouds import CLOUDS, MODELS
from components.settings.errors import SettingsError
from components.settings.keys import keys_of
from components.settings.names import short_name
from tests.unit.settings_cases import EKS, GKE, KEYS, LOCAL, ROOT, parse, problems

CAMPUS = {"cloud": "kubeconfig", "image": "a/b:1"}
BASES: dict[str, dict[str, Any]] = {"local": LOCAL, "kubeconfig": CAMPUS, "gke": GKE, "eks": EKS}


def test_the_smallest_stack_gets_every_default() -> None:
    settings = parse(LOCAL, stack="dev")
    assert (settings.workers, settings.max_workers, settings.namespace) == (4, 4, "future-dev")
    assert (settings.ide, settings.home_gib, settings.shared_gib, settings.password) == ("both", 10, 0, None)


def test_every_wrong_setting_is_reported_at_once() -> None:
    found = problems({**GKE, "workers": "four", "spot": "maybe", "ide": "rstudoi", "homeGiB": "-1", "namespace": "A_b"})
    assert set(found) == {"workers", "spot", "ide", "homeGiB", "namespace"}
    assert "did you mean 'rstudio'?" in found["ide"]


def test_the_message_names_key_value_allowed_and_command() -> None:
    with pytest.raises(SettingsError) as caught:
        parse({**LOCAL, "homeGiB": "ten"}, stack="dev")
    assert str(caught.value).splitlines() == [
        "1 setting is wrong in stack 'dev':",
        "  homeGiB is 'ten'",
        "    allowed: a whole number of GiB (0: lost with the pod) from 0 to 65536",
        "    fix:     pulumi config set homeGiB 10",
    ]


@pytest.mark.parametrize(
    ("key", "meant"), [("worker", "workers"), ("maxworkers", "maxWorkers"), ("r_packages", "rPackages"), ("IDE", "ide")]
)
def test_unknown_key_is_an_error_that_suggests_a_near_one(key: str, meant: str) -> None:
    assert f"did you mean {meant}?" in problems({**LOCAL, key: "3"})[key]


def test_unknown_key_without_a_near_one_lists_all_keys() -> None:
    assert "there are cloud, workers" in problems({**LOCAL, "zzzzzz": "3"})["zzzzzz"]


def test_unknown_key_hides_its_value_which_may_be_a_password() -> None:
    with pytest.raises(SettingsError) as caught:
        parse({**LOCAL, "pasword": "hunter2hunter2"}, stack="dev")
    assert "hunter2" not in str(caught.value)


def test_culling_of_kernels_needs_idle_minutes() -> None:
    assert "only with idleMinutes" in problems({**LOCAL, "cullIdleKernels": "true"})["cullIdleKernels"]
    assert parse({**LOCAL, "cullIdleKernels": "true", "idleMinutes": "30"}, stack="dev").cull_idle_kernels
    assert not parse({**LOCAL, "cullIdleKernels": "false"}, stack="dev").cull_idle_kernels


def test_max_workers_is_refused_only_below_workers() -> None:
    assert "at least workers, which is 4" in problems({**LOCAL, "maxWorkers": "3"})["maxWorkers"]
    assert parse({**LOCAL, "maxWorkers": "4"}, stack="dev").max_workers == 4
    assert parse({**LOCAL, "maxWorkers": "9"}, stack="dev").max_workers == 9


@pytest.mark.parametrize(
    ("base", "region", "zone", "right"),
    [
        (GKE, "us-west1", "us-west1-a", True),
        (GKE, "us-west1", "us-west2-a", False),
        (GKE, "us-west1", "us-west-1a", False),
        (GKE, "us-west-2", "", False),
        (EKS, "us-west-2", "us-west-2a", True),
        (EKS, "us-west-2", "us-west-1a", False),
        (EKS, "us-west1", "", False),
        (EKS, "us-gov-east-1", "us-gov-east-1b", True),
    ],
)
def test_a_zone_must_lie_in_its_region(base: dict[str, str], region: str, zone: str, right: bool) -> None:
    values = {**base, "region": region, "zone": zone}
    if right:
        assert parse(values, stack="dev").region == region
    else:
        assert set(problems(values)) <= {"region", "zone"}


def test_the_region_follows_from_the_zone() -> None:
    assert parse({**GKE, "region": "", "zone": "europe-west3-b"}, stack="dev").region == "europe-west3"
    assert parse({**EKS, "region": "", "zone": "eu-central-1b"}, stack="dev").region == "eu-central-1"


def test_a_required_setting_of_the_cloud_is_asked_for() -> None:
    assert set(problems({"cloud": "gke"})) == {"project", "region"}
    assert set(problems({"cloud": "eks"})) == {"region", "authorizedNetworks"}
    assert set(problems({"cloud": "kubeconfig"})) == {"image"}
    assert set(problems({"cloud": "local"})) == {"image"}
    assert set(problems({})) == {"cloud"}


def test_settings_that_contradict_each_other_are_reported_beside_wrong_values() -> None:
    assert set(problems({**GKE, "homeGiB": "ten", "maxWorkers": "3"})) == {"homeGiB", "maxWorkers"}
    assert set(problems({"cloud": "gke", "region": "us-west1", "sharedGiB": "5"})) == {"project", "sharedGiB"}


def test_a_contradiction_with_a_wrong_value_is_not_reported() -> None:
    assert set(problems({**GKE, "workers": "four", "maxWorkers": "3"})) == {"workers"}


@pytest.mark.parametrize(("base", "key"), [(GKE, "subnets"), (EKS, "subnets"), (EKS, "publicSubnets")])
def test_subnets_without_a_network_are_refused(base: dict[str, str], key: str) -> None:
    assert "only together with network" in problems({**base, key: "one,two"})[key]


def test_wrong_values_are_reported_before_the_cloud_is_known() -> None:
    found = problems({"cloud": "ekz", "workers": "four", "spot": "perhaps", "natPerZone": "true"})
    assert set(found) == {"cloud", "workers", "spot"}
    assert "did you mean 'eks'?" in found["cloud"]


def test_value_that_is_wrong_on_every_cloud_is_reported_once() -> None:
    for values in ({"workers": "four"}, {"cloud": "moon", "workers": "four"}):
        with pytest.raises(SettingsError) as caught:
            parse(values)
        assert sorted(problem.key for problem in caught.value.problems) == ["cloud", "workers"]


def test_another_clouds_setting_is_an_error_unless_the_default() -> None:
    assert "only where cloud is gke or eks" in problems({**LOCAL, "spot": "true"})["spot"]
    assert parse({**LOCAL, "spot": "false", "authorizedNetworks": "[]", "region": ""}).cloud == "local"


ELSEWHERE = {
    cloud: sorted(set(KEYS) - set(keys_of(model)) - {"cloud"}) for cloud, model in MODELS.items() if cloud in BASES
}
"""By cloud, the settings that only other clouds have."""


@pytest.mark.parametrize(("cloud", "name"), [(cloud, name) for cloud, names in ELSEWHERE.items() for name in names])
def test_each_setting_of_only_another_cloud_is_refused(cloud: str, name: str) -> None:
    key = KEYS[name]
    # The default of one cloud is accepted on the others.
    given = (
        "n2-standard-8" if name.endswith("achineType") else "x" * 12 if key.secret else shlex.split(key.command())[-1]
    )
    message = problems({**BASES[cloud], name: given})[name]
    assert "only where cloud is" in message
    assert f"pulumi config rm {name}" in message


NUMBERS = [
    (cloud, name, bound)
    for cloud, model in MODELS.items()
    if cloud in BASES
    for name, key in keys_of(model).items()
    for bound in key.type.bounds()
    if bound is not None
]


@pytest.mark.parametrize(("cloud", "name", "bound"), NUMBERS)
def test_each_number_beyond_its_bounds_is_refused_with_both(cloud: str, name: str, bound: float) -> None:
    least, most = keys_of(MODELS[cloud])[name].type.bounds()
    beyond = bound - 1 if bound == least else bound + 1
    message = problems({**BASES[cloud], name: f"{beyond:g}"})[name]
    assert f"from {least:g} to {most:.6g}" in message or f"from {least:g} to {most:g}" in message
    assert f"pulumi config set {name} " in message


@pytest.mark.parametrize(("stack", "name"), [("dev", "future-dev"), ("Stat_243.fall", "future-stat-243-fall")])
def test_a_stack_name_becomes_a_dns_label(stack: str, name: str) -> None:
    assert parse(LOCAL, stack=stack).name == name


@pytest.mark.parametrize("stack", ["x" * 30, "___"])
def test_a_stack_name_without_a_resource_name_is_refused(stack: str) -> None:
    assert "the stack's name" in problems(LOCAL, stack=stack)


def test_kubeconfig_is_given_by_its_path_or_its_text() -> None:
    both = {"cloud": "kubeconfig", "image": "a/b:1", "kubeconfig": "~/.kube/config", "kubeconfigText": "clusters: []"}
    found = problems(both, secrets=frozenset({"kubeconfigText"}))
    assert "set, and so is kubeconfigText" in found["kubeconfig"]


def test_an_image_is_either_given_or_built() -> None:
    assert "only with an image that is built" in problems({**GKE, "image": "a/b:1", "rPackages": "sf"})["rPackages"]
    for key in ("rPackages", "aptPackages"):
        found = problems({"cloud": "kubeconfig", "image": "a/b:1", key: "sf"})[key]
        assert f"pulumi config rm {key}" in found


@given(st.dictionaries(st.sampled_from([*KEYS, "nonsense"]), st.text(max_size=12), max_size=6))
def test_any_input_ends_in_settings_or_one_readable_error(values: dict[str, str]) -> None:
    found: SettingsError | None = None
    try:
        settings = parse(values, stack="dev")
    except SettingsError as error:
        found = error
    if found:
        assert all(problem.allowed and problem.fix for problem in found.problems)
    else:
        assert 1 <= settings.workers <= settings.max_workers


@given(st.text(min_size=1, max_size=80), st.text(min_size=1, max_size=80), st.integers(10, 40))
@example("a-name-that-is-long-1", "a-name-that-is-long-2", 12)
def test_short_names_fit_and_stay_apart(one: str, two: str, limit: int) -> None:
    assert len(short_name(one, limit)) <= limit
    if one != two and max(len(one), len(two)) > limit:
        assert short_name(one, limit) != short_name(two, limit)


def test_name_is_kept_up_to_its_limit_and_cut_there() -> None:
    assert short_name("a" * 20, 20) == "a" * 20
    assert len(short_name("a" * 21, 20)) == 20
    assert "--" not in short_name("a" * 12 + "-" + "b" * 10, 20)


@pytest.mark.parametrize("path", sorted(ROOT.glob("Pulumi.*.yaml")), ids=lambda path: path.name)
def test_every_stack_file_of_the_project_is_accepted(path: Path) -> None:
    config = {
        key.removeprefix("future-kubernetes:"): value
        for key, value in yaml.safe_load(path.read_text())["config"].items()
    }
    config.setdefault("image", "127.0.0.1:5000/r:1")
    assert parse(config, stack=path.name.split(".")[1]).cloud in CLOUDS


def test_another_clouds_setting_is_shown_unless_it_may_hold_credentials() -> None:
    found = problems({**GKE, "kubeconfig": "users: [{token: geheim}]", "context": "campus"})
    assert found["kubeconfig"].startswith("kubeconfig is set\n")
    assert "geheim" not in "".join(found.values())
    assert found["context"].startswith("context is 'campus'\n")


@pytest.mark.parametrize(
    ("values", "key", "words"),
    [
        ({"cloud": "kubeconfig"}, "image", "the reference of an image that the cluster can pull"),
        ({"cloud": "gke", "region": "us-west1"}, "project", "a Google Cloud project ID"),
    ],
)
def test_a_required_setting_that_is_absent_is_described(values: dict[str, Any], key: str, words: str) -> None:
    assert f"allowed: {words}" in problems(values)[key]
