"""The text of each kind of wrong setting, whole: what was given, what is allowed and the command that fixes it.

Users paste the third part into a shell, and read the second one as the setting's documentation.
"""

from __future__ import annotations

from typing import Any

import pytest

from components.clouds import MODELS
from components.settings.errors import SettingsError
from components.settings.loading import parse

LOCAL = {"cloud": "local", "image": "127.0.0.1:5000/r:1"}
SKEW = {"maxSkew": 0, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}
TOO_LONG = ".".join(["a" * 62] * 4) + ".de"
"""254 characters: one more than a DNS name may have. Each part of it is short enough."""


def refusal(given: dict[str, Any]) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        parse(given, MODELS, stack="dev")
    return caught.value


def texts(key: str, given: str, allowed: str, fix: str) -> str:
    return f"  {key}{given}\n    allowed: {allowed}\n    fix:     pulumi config {fix}"


def test_several_wrong_settings_are_counted_and_follow_one_another() -> None:
    assert str(refusal({**LOCAL, "homeGiB": "x", "createNamespace": "maybe"})) == (
        "2 settings are wrong in stack 'dev':\n"
        + texts("createNamespace", " is 'maybe'", "true or false", "set createNamespace false")
        + "\n"
        + texts("homeGiB", " is 'x'", "a whole number of GiB (0: lost with the pod) from 0 to 65536", "set homeGiB 10")
    )


ITEMS = "a list in which each item is right: "
CASES = [
    ({"cloud": "gke "}, "cloud", " is 'gke '", "one of local, kubeconfig, gke, eks (did you mean 'gke'?)",
     "set cloud local"),
    ({"cloud": '["gke"]'}, "cloud", " is ['gke']", "one of local, kubeconfig, gke, eks (did you mean 'gke'?)",
     "set cloud local"),
    ({"cloud": "azure"}, "cloud", " is 'azure'", "one of local, kubeconfig, gke, eks", "set cloud local"),
    ({}, "cloud", " is not set", "one of local, kubeconfig, gke, eks", "set cloud local"),
    ({**LOCAL, "ide": "rstudoi"}, "ide", " is 'rstudoi'", "one of rstudio, jupyterlab, both (did you mean 'rstudio'?)",
     "set ide rstudio"),
    ({**LOCAL, "pasword": "hunter2hunter2"}, "pasword", "", "no such key; did you mean password?",
     "rm pasword && pulumi config set --secret password"),
    ({**LOCAL, "workerMemoryGiB": "two"}, "workerMemoryGiB", " is 'two'",
     "an amount of memory in GiB, such as 3.5, from 0.0625 to 16384", "set workerMemoryGiB 2"),
    ({**LOCAL, "rPackages": "sf b/ c%"}, "rPackages", " is 'sf b/ c%'",
     f"{ITEMS}'b/' is not the name of an R package, at most 100 characters; "
     "'c%' is not the name of an R package, at most 100 characters", "set rPackages 'data.table sf'"),
    ({**LOCAL, "rPackages": '{"sf": 1}'}, "rPackages", " is {'sf': 1}",
     "a list, each item the name of an R package, at most 100 characters",
     "set rPackages 'data.table sf'"),
    ({**LOCAL, "host": TOO_LONG}, "host", f" is '{TOO_LONG}'",
     "a full DNS name that you own, such as r.example.org, without https://", "set host r.example.org"),
    ({**LOCAL, "chartValues": {"ide": "rstudio"}}, "chartValues.ide", " is set", "only the setting ide may set it",
     "rm --path chartValues.ide && pulumi config set ide rstudio"),
    ({**LOCAL, "chartValues": {"fullnameOverride": "r"}}, "chartValues.fullnameOverride", " is set",
     "only the program may set it (it is made from the stack's name)", "rm --path chartValues.fullnameOverride"),
    ({**LOCAL, "chartValues": {"scheduler": {"zzzz": 1, "gracePeriodSeconds": 1}}}, "chartValues.scheduler.zzzz", "",
     None, "rm --path chartValues.scheduler.zzzz"),
    ({**LOCAL, "chartValues": {"scheduler": {"gracePeriodSeconds": 86401}}}, "chartValues.scheduler.gracePeriodSeconds",
     " is 86401", "a whole number from 0 to 86400", "set --path chartValues.scheduler.gracePeriodSeconds VALUE"),
    ({**LOCAL, "chartValues": {"worker": {"topologySpreadConstraints": [SKEW]}}},
     "chartValues.worker.topologySpreadConstraints[0].maxSkew", " is 0", "a whole number, at least 1",
     "set --path 'chartValues.worker.topologySpreadConstraints[0].maxSkew' VALUE"),
    ({**LOCAL, "chartValues": {"imagePullPolicy": "Sometimes"}}, "chartValues.imagePullPolicy", " is 'Sometimes'",
     "one of 'Always', 'IfNotPresent', 'Never'", "set --path chartValues.imagePullPolicy VALUE"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "key", "shown", "allowed", "fix"), CASES, ids=[f"{c[1]}{c[2]}"[:50] for c in CASES])
def test_wrong_setting_has_three_parts_and_is_the_only_one(
    given: dict[str, Any], key: str, shown: str, allowed: str | None, fix: str
) -> None:
    found = refusal(given)
    assert len(found.problems) == 1
    if allowed is None:  # the list of all values of the chart's scheduler
        allowed = found.problems[0].allowed
        assert allowed.startswith("no such value of the chart; there are ")
        assert {"homeGiB", "gracePeriodSeconds"} < set(
            allowed.removeprefix("no such value of the chart; there are ").split(", ")
        )
    assert str(found) == f"1 setting is wrong in stack 'dev':\n{texts(key, shown, allowed, fix)}"


def test_every_wrong_value_of_the_chart_is_reported() -> None:
    overlay = {"networkPolicy": {"enabled": "x"}, "scheduler": {"gracePeriodSeconds": "long"}}
    keys = [problem.key for problem in refusal({**LOCAL, "chartValues": overlay}).problems]
    assert keys == ["chartValues.networkPolicy.enabled", "chartValues.scheduler.gracePeriodSeconds"]


@pytest.mark.parametrize(("labels", "why"), [("team", "'team' has no ="), ("a=b=c", "a=b=c breaks this")])
def test_a_wrong_label_is_named(labels: str, why: str) -> None:
    assert refusal({**LOCAL, "labels": labels}).problems[0].allowed.endswith(f"- and _ ({why})")
