"""Settings: valid values pass unchanged, and every wrong one is reported at once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from components.clouds import CLOUDS, MODELS
from components.settings import loading
from components.settings.errors import SettingsError
from components.settings.fields import WORK_HOURS
from components.settings.loading import known_keys
from components.settings.names import short_name
from image.broker import hours

ROOT = Path(__file__).resolve().parents[2]
KEYS = known_keys(MODELS)
LOCAL = {"cloud": "local", "image": "127.0.0.1:5000/r:1"}
GKE = {"cloud": "gke", "project": "my-project", "region": "us-west1"}
EKS = {"cloud": "eks", "region": "us-west-2"}


def parse(values: dict[str, Any], stack: str = "dev", secrets: frozenset[str] = frozenset()) -> Any:
    return loading.parse(values, MODELS, stack=stack, secrets=secrets)


def problems(values: dict[str, Any], stack: str = "dev", secrets: frozenset[str] = frozenset()) -> dict[str, str]:
    """The message of each problem by its key."""
    with pytest.raises(SettingsError) as caught:
        parse(values, stack=stack, secrets=secrets)
    return {problem.key: str(problem) for problem in caught.value.problems}


def test_the_smallest_stack_gets_every_default() -> None:
    settings = parse(LOCAL, stack="dev")
    assert (settings.workers, settings.max_workers, settings.namespace) == (4, 4, "future-dev")
    assert (settings.ide, settings.home_gib, settings.shared_gib, settings.password) == ("both", 10, 0, None)


@pytest.mark.parametrize("wrong", ["0", "-1", "four", "1e6", "2.5", "", " ", "true", "5001", "4 ", 0, -1, True, "٤"])
def test_a_wrong_worker_count_is_refused_with_the_fix(wrong: Any) -> None:
    if wrong in ("", "4 ", "٤"):
        assert parse({**LOCAL, "workers": wrong}, stack="dev").workers == 4
    else:
        found = problems({**LOCAL, "workers": wrong})
        assert list(found) == ["workers"]
        assert repr(wrong) in found["workers"]
        assert "from 1 to 5000" in found["workers"]
        assert "pulumi config set workers 4" in found["workers"]


def test_every_wrong_setting_is_reported_at_once() -> None:
    found = problems({**GKE, "workers": "four", "spot": "maybe", "ide": "rstudoi", "homeGiB": "-1", "namespace": "A_b"})
    assert set(found) == {"workers", "spot", "ide", "homeGiB", "namespace"}
    assert "did you mean 'rstudio'?" in found["ide"]


@pytest.mark.parametrize(
    ("given", "spot", "autoscaled", "falls_back"),
    [
        ("true", True, True, False),
        (" Fallback ", "fallback", True, True),
        ("false", False, False, False),
        (True, True, True, False),
        ("", False, False, False),
    ],
)
def test_spot_is_true_fallback_or_false(given: Any, spot: Any, autoscaled: bool, falls_back: bool) -> None:
    settings = parse({**GKE, "workers": "4", "spot": given})
    assert (settings.spot, settings.autoscaled, settings.falls_back) == (spot, autoscaled, falls_back)


@pytest.mark.parametrize("wrong", ["maybe", "1", "fall-back", "yes"])
def test_another_word_for_spot_is_refused_with_the_three(wrong: str) -> None:
    message = problems({**GKE, "spot": wrong})["spot"]
    assert f"spot is '{wrong}'" in message
    assert "one of true, fallback, false" in message
    assert ("did you mean 'fallback'?" in message) == (wrong == "fall-back")


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
def test_an_unknown_key_is_an_error_that_suggests_the_near_one(key: str, meant: str) -> None:
    assert f"did you mean {meant}?" in problems({**LOCAL, key: "3"})[key]


def test_an_unknown_key_without_a_near_one_gets_the_list_of_keys() -> None:
    assert "there are cloud, workers" in problems({**LOCAL, "zzzzzz": "3"})["zzzzzz"]


def test_an_unknown_key_may_be_a_misspelt_password_so_its_value_is_hidden() -> None:
    with pytest.raises(SettingsError) as caught:
        parse({**LOCAL, "pasword": "hunter2hunter2"}, stack="dev")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("zero", ["0", 0])
def test_zero_and_false_are_values_and_not_absence(zero: Any) -> None:
    settings = parse({**LOCAL, "homeGiB": zero, "idleMinutes": zero, "resourceQuota": "false"}, stack="dev")
    assert (settings.home_gib, settings.idle_minutes, settings.resource_quota) == (0, 0, False)
    assert "maxWorkers" in problems({**LOCAL, "maxWorkers": zero})


def test_max_workers_below_workers_is_refused_and_equal_or_above_is_not() -> None:
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
    assert set(problems({"cloud": "eks"})) == {"region"}
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


def test_a_value_that_is_wrong_on_every_cloud_is_reported_once() -> None:
    for values in ({"workers": "four"}, {"cloud": "moon", "workers": "four"}):
        with pytest.raises(SettingsError) as caught:
            parse(values)
        assert sorted(problem.key for problem in caught.value.problems) == ["cloud", "workers"]


def test_another_clouds_setting_is_an_error_unless_it_is_the_default() -> None:
    assert "only where cloud is gke or eks" in problems({**LOCAL, "spot": "true"})["spot"]
    assert parse({**LOCAL, "spot": "false", "authorizedNetworks": "[]", "region": ""}).cloud == "local"


@pytest.mark.parametrize("namespace", ["Team", "team_a", "-team", "team-", "t" * 64, "a.b"])
def test_a_namespace_must_be_a_dns_label(namespace: str) -> None:
    assert "DNS-1123" in problems({**LOCAL, "namespace": namespace})["namespace"]


@pytest.mark.parametrize(("stack", "name"), [("dev", "future-dev"), ("Stat_243.fall", "future-stat-243-fall")])
def test_a_stack_name_becomes_a_dns_label(stack: str, name: str) -> None:
    assert parse(LOCAL, stack=stack).name == name


@pytest.mark.parametrize("stack", ["x" * 30, "___"])
def test_a_stack_name_without_a_resource_name_is_refused(stack: str) -> None:
    assert "the stack's name" in problems(LOCAL, stack=stack)


def test_a_password_is_never_repeated_and_must_be_a_secret() -> None:
    short = frozenset({"password"})
    with pytest.raises(SettingsError) as caught:
        parse({**LOCAL, "password": "geheim"}, stack="dev", secrets=short)
    assert "geheim" not in str(caught.value)
    assert "plain text" in problems({**LOCAL, "password": "long enough it is"})["password"]
    assert "at least 8" in problems({**LOCAL, "password": "7 chars"}, secrets=short)["password"]
    assert parse({**LOCAL, "password": "8 chars."}, secrets=short).password
    settings = parse({**LOCAL, "password": "long enough it is"}, stack="dev", secrets=short)
    assert settings.password is not None
    assert "long enough" not in repr(settings)


@pytest.mark.parametrize(
    "value", ['["data.table", "sf"]', "data.table sf", "data.table,sf", ["data.table", "sf"], "sf data.table sf"]
)
def test_lists_are_read_from_yaml_and_from_the_command_line(value: Any) -> None:
    assert set(parse({**GKE, "rPackages": value}, stack="dev").r_packages) == {"data.table", "sf"}


@pytest.mark.parametrize("value", ["data.table, sf,", " data.table sf "])
def test_blanks_and_commas_at_the_ends_of_a_list_are_no_items(value: str) -> None:
    assert parse({**GKE, "rPackages": value}).r_packages == ("data.table", "sf")


def test_a_wrong_item_of_a_list_is_named_with_what_an_item_may_be() -> None:
    message = problems({**GKE, "rPackages": "data.table 9lives"})["rPackages"]
    assert "'9lives' is not the name of an R package" in message
    assert "'data.table'" not in message.split("allowed:")[1].split("fix:")[0]


@pytest.mark.parametrize("value", ['{"team": "statistics", "course": "243"}', "team=statistics,course=243"])
def test_labels_are_read_from_yaml_and_from_the_command_line(value: str) -> None:
    assert parse({**GKE, "labels": value}, stack="dev").labels == {"team": "statistics", "course": "243"}


@pytest.mark.parametrize("value", ["team", "Team=x", "team=Statistics", "team=x y=z=", "team=" + "x" * 64])
def test_a_label_that_some_cloud_would_refuse_is_refused(value: str) -> None:
    assert "labels" in problems({**GKE, "labels": value})


@pytest.mark.parametrize("value", ["203.0.113.0/33", "203.0.113.1/24", "example.org"])
def test_a_wrong_network_is_refused(value: str) -> None:
    assert "authorizedNetworks" in problems({**GKE, "authorizedNetworks": value})


@pytest.mark.parametrize("base", [GKE, EKS])
@pytest.mark.parametrize("value", ["2001:db8::/32", "2001:db8::7/128", "2001:db8::7/32", "203.0.113.0/24,::/0"])
def test_an_ipv6_network_is_refused_with_the_command_for_ipv4(base: dict[str, str], value: str) -> None:
    message = problems({**base, "authorizedNetworks": value})["authorizedNetworks"]
    assert "only IPv4" in message
    assert 'pulumi config set authorizedNetworks "$(curl -4 -s https://ifconfig.me)/32"' in message


@pytest.mark.parametrize("value", ["https://r.example.org", "localhost", "r example.org", "r..org"])
def test_a_host_must_be_a_dns_name(value: str) -> None:
    assert "host" in problems({**GKE, "host": value})


@pytest.mark.parametrize("value", ["http://user:geheim@example.org", "cran.example.net", "https://a b"])
def test_a_wrong_repository_is_refused_and_never_repeated(value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse({**GKE, "rRepository": value}, stack="dev", secrets=frozenset({"rRepository"}))
    assert "rRepository" in str(caught.value)
    assert value not in str(caught.value)
    url = "https://user:geheim@packages.example.org/cran"
    assert "plain text" in problems({**GKE, "rRepository": url})["rRepository"]
    settings = parse({**GKE, "rRepository": url}, stack="dev", secrets=frozenset({"rRepository"}))
    assert "geheim" not in repr(settings)
    assert settings.r_repository.get_secret_value() == url


@pytest.mark.parametrize("text", ["~/.kube/config", "", "clusters: []" + " " * 1_000_000])
def test_a_text_that_is_no_kubeconfig_is_refused_and_never_repeated(text: str) -> None:
    given = {"cloud": "kubeconfig", "image": "a/b:1", "kubeconfigText": text or "users: [{token: geheim}]"}
    message = problems(given, secrets=frozenset({"kubeconfigText"}))["kubeconfigText"]
    assert "for a path there is kubeconfig" in message
    assert "geheim" not in message
    assert "~" not in message


def test_a_kubeconfig_is_given_by_its_path_or_by_its_text() -> None:
    both = {"cloud": "kubeconfig", "image": "a/b:1", "kubeconfig": "~/.kube/config", "kubeconfigText": "clusters: []"}
    found = problems(both, secrets=frozenset({"kubeconfigText"}))
    assert "set, and so is kubeconfigText" in found["kubeconfig"]


def test_an_image_is_either_given_or_built() -> None:
    assert "only with an image that is built" in problems({**GKE, "image": "a/b:1", "rPackages": "sf"})["rPackages"]
    for key in ("rPackages", "aptPackages"):
        found = problems({"cloud": "kubeconfig", "image": "a/b:1", key: "sf"})[key]
        assert f"pulumi config rm {key}" in found


@given(st.dictionaries(st.sampled_from([*KEYS, "nonsense"]), st.text(max_size=12), max_size=6))
def test_whatever_is_given_ends_in_settings_or_in_one_readable_error(values: dict[str, str]) -> None:
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


def test_a_short_name_is_kept_up_to_its_limit_and_uses_it_where_it_is_cut() -> None:
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


def test_environment_variables_are_a_map_of_text_and_numbers() -> None:
    given = '{"PGHOST": "db.example.org", "PGPORT": 5432, "EMPTY": "", "KEY": "a\\nb"}'
    settings = parse({**LOCAL, "environment": given}, secrets=frozenset({"environment"}))
    assert settings.environment == {"PGHOST": "db.example.org", "PGPORT": "5432", "EMPTY": "", "KEY": "a\nb"}


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"1A": "secret"}, "1A is no name of a variable"),
        ({"A-B": "secret"}, "A-B is no name of a variable"),
        *(
            ({name: "secret"}, f"{name} belongs to the pod itself")
            for name in (
                "PATH",
                "HOME",
                "USER",
                "LOGNAME",
                "SHELL",
                "HOSTNAME",
                "TMPDIR",
                "R_HOME",
                "LD_PRELOAD",
                "POD_NAME",
                "NODE_NAME",
                "KUBERNETES_PORT",
                "FUTURE_KUBERNETES_RUN",
            )
        ),
        ({"ON": True}, "the value of ON is no text: write it in quotes"),
        ({"A": ["secret"]}, "the value of A is no text: write it in quotes"),
        ({"A": "secret\0"}, "the value of A has a zero byte"),
        (["secret"], "it is no map"),
        ("secret", "it is no map"),
    ],
)
def test_wrong_environment_variables_are_named_without_their_values(given: Any, why: str) -> None:
    message = problems({**LOCAL, "environment": given})["environment"]
    assert why in message
    assert "such as PGHOST: db.example.org" in message
    assert "secret" not in message.split("fix:")[0]


def test_a_setting_of_another_cloud_is_shown_unless_it_may_hold_credentials() -> None:
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


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("08:00-18:00", "days, hours and time zone, such as Mon-Fri 08:00-18:00 Europe/Berlin"),
        ("Mon-Fri 8-18 Europe/Berlin", "days, hours and time zone"),
        ("Mon-Fri 08:00-25:00 UTC", "days, hours and time zone"),
        ("Mo-Fr 08:00-18:00 UTC", "days, hours and time zone"),
        ("Mon-Fri 08:00-18:00", "days, hours and time zone"),
        ("Mon-Fri 08:00-18:00 Europe/Berln", "there is no time zone Europe/Berln"),
        ("Mon-Fri 08:00-18:00 ../../etc/passwd", "days, hours and time zone"),
        ("Mon-Fri 08:00-08:00 UTC", "begin and end are the same time"),
        ("0", "days, hours and time zone"),
    ],
)
def test_wrong_work_hours_are_refused_with_the_fix(wrong: str, said: str) -> None:
    for cloud in (LOCAL, GKE):
        found = problems({**cloud, "workHours": wrong})
        assert list(found) == ["workHours"]
        assert said in found["workHours"]
        assert "pulumi config set workHours 'Mon-Fri 08:00-18:00 Europe/Berlin'" in found["workHours"]


@given(st.from_regex(WORK_HOURS, fullmatch=True), st.from_regex(hours.FORM, fullmatch=True))
def test_setting_and_broker_know_one_form_of_work_hours(allowed: str, known: str) -> None:
    assert hours.FORM.fullmatch(allowed)
    assert re.fullmatch(WORK_HOURS, known)
