"""The way of the stack's config to the program: Pulumi passes it in the environment, and tests set it by the SDK."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pulumi
import pytest
from pulumi.runtime import config as runtime_config

from components.clouds import MODELS
from components.settings import loading
from components.settings.errors import SettingsError
from components.settings.loading import configured

PROJECT = "future-kubernetes"


@pytest.fixture(autouse=True)
def nothing_set() -> Iterator[None]:
    """No config of an earlier test, and none that this one leaves."""
    runtime_config.set_all_config({}, [])
    yield
    runtime_config.set_all_config({}, [])


def pulumi_passes(monkeypatch: pytest.MonkeyPatch, config: dict[str, str], secrets: list[str]) -> None:
    """The environment in which `pulumi up` starts the program."""
    monkeypatch.setenv("PULUMI_CONFIG", json.dumps(config))
    monkeypatch.setenv("PULUMI_CONFIG_SECRET_KEYS", json.dumps(secrets))


def test_config_of_pulumi_up_is_read_with_secret_names(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {f"{PROJECT}:cloud": "local", f"{PROJECT}:password": "correct horse"}
    pulumi_passes(monkeypatch, given, [f"{PROJECT}:password"])
    assert configured(PROJECT) == ({"cloud": "local", "password": "correct horse"}, frozenset({"password"}))


def test_config_of_providers_and_other_projects_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {f"{PROJECT}:workers": "3", "aws:region": "us-west-2", f"{PROJECT}-2:cloud": "gke", "password": "x"}
    pulumi_passes(monkeypatch, given, ["aws:secretKey", f"{PROJECT}-2:password", f"{PROJECT}:repository"])
    assert configured(PROJECT) == ({"workers": "3"}, frozenset({"repository"}))


def test_config_set_by_the_sdk_goes_before_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    pulumi_passes(monkeypatch, {f"{PROJECT}:workers": "3", f"{PROJECT}:cloud": "local"}, [f"{PROJECT}:password"])
    runtime_config.set_all_config({f"{PROJECT}:workers": "5"}, [f"{PROJECT}:environment"])
    assert configured(PROJECT) == ({"workers": "5", "cloud": "local"}, frozenset({"password", "environment"}))


def test_settings_are_those_of_the_running_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulumi, "get_project", lambda: PROJECT)
    monkeypatch.setattr(pulumi, "get_stack", lambda: "seminar")
    given = {"cloud": "local", "image": "a/b:1", "workers": "3", "password": "correct horse"}
    given = {f"{PROJECT}:{key}": value for key, value in given.items()}
    pulumi_passes(monkeypatch, given, [f"{PROJECT}:password"])
    settings = loading.load(MODELS)
    assert (settings.stack, settings.workers, settings.namespace) == ("seminar", 3, "future-seminar")
    pulumi_passes(monkeypatch, given, [])
    with pytest.raises(SettingsError, match="kept encrypted only"):
        loading.load(MODELS)
