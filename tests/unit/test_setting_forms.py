"""The form of each setting's value: what is read, and what is refused with its fix."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.settings.errors import SettingsError
from components.settings.fields import WORK_HOURS
from image.broker import hours
from tests.unit.settings_cases import EKS, GKE, LOCAL, parse, problems


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


@pytest.mark.parametrize("zero", ["0", 0])
def test_zero_and_false_are_values_and_not_absence(zero: Any) -> None:
    settings = parse({**LOCAL, "homeGiB": zero, "idleMinutes": zero, "resourceQuota": "false"}, stack="dev")
    assert (settings.home_gib, settings.idle_minutes, settings.resource_quota) == (0, 0, False)
    assert "maxWorkers" in problems({**LOCAL, "maxWorkers": zero})


@pytest.mark.parametrize("namespace", ["Team", "team_a", "-team", "team-", "t" * 64, "a.b"])
def test_a_namespace_must_be_a_dns_label(namespace: str) -> None:
    assert "DNS-1123" in problems({**LOCAL, "namespace": namespace})["namespace"]


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
def test_blanks_and_commas_at_a_lists_ends_are_no_items(value: str) -> None:
    assert parse({**GKE, "rPackages": value}).r_packages == ("data.table", "sf")


def test_wrong_item_of_a_list_is_named_with_allowed_ones() -> None:
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
def test_text_that_is_no_kubeconfig_is_refused_and_never_repeated(text: str) -> None:
    given = {"cloud": "kubeconfig", "image": "a/b:1", "kubeconfigText": text or "users: [{token: geheim}]"}
    message = problems(given, secrets=frozenset({"kubeconfigText"}))["kubeconfigText"]
    assert "for a path there is kubeconfig" in message
    assert "geheim" not in message
    assert "~" not in message


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
