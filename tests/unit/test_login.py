"""Single sign-on: what the settings need of each other, and where the secrets end up."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from tests.unit.cloud_mocks import ROOT
from tests.unit.existing_clusters import CAMPUS, nodes, program, refusal, values

__all__ = ["nodes"]
pytestmark = pytest.mark.usefixtures("nodes", "_secret")

LOGIN = {
    **CAMPUS,
    "host": "r.example.org",
    "oidcIssuer": "https://login.example.org/realms/team",
    "oidcClientId": "r",
    "oidcClientSecret": "of-the-provider",
    "oidcUsers": "ada@example.org, @statistics.example.org",
}


@pytest.fixture
def _secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULUMI_CONFIG_SECRET_KEYS", '["future-kubernetes:oidcClientSecret"]')


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in LOGIN.items() if name not in names}


def test_secrets_are_in_a_secret_and_in_no_value() -> None:
    done = program(LOGIN)
    secret = next(each for each in done.all("core/v1:Secret") if each.name.endswith("-oidc"))
    assert secret.inputs["metadata"]["name"] == "future-dev-oidc"
    assert "stringData" in secret.secrets
    assert secret.inputs["stringData"]["client-secret"] == "of-the-provider"
    assert secret.inputs["stringData"]["cookie-secret"].startswith("drawn-")
    assert done.one("randomPassword:RandomPassword", "-cookie").inputs["length"] in (16, 24, 32), "else it is no key"
    release = done.one("helm.sh/v3:Release")
    assert secret.urn in release.depends_on, "the proxy does not start without it"
    text = json.dumps(release.inputs)
    assert "of-the-provider" not in text
    assert "drawn-" not in text
    assert values(done)["oidc"] == {
        "issuer": "https://login.example.org/realms/team",
        "clientId": "r",
        "existingSecret": "future-dev-oidc",
        "users": ["ada@example.org", "@statistics.example.org"],
        "secretVersion": "0a1b2c3",
    }
    jsonschema.validate(values(done), json.loads((ROOT / "chart" / "values.schema.json").read_text()))


def test_another_client_secret_draws_another_version() -> None:
    version = program(LOGIN).one("randomId:RandomId", "-oidc")
    assert version.inputs["keepers"] == {"secret": "of-the-provider"}
    assert "of-the-provider" not in json.dumps([text for text in version.sent if text != "keepers"])


def test_without_an_issuer_there_is_no_secret_and_no_value() -> None:
    done = program({**CAMPUS, "host": "r.example.org"})
    assert [each.name for each in done.resources if "oidc" in each.name or "cookie" in each.name] == []
    assert values(done)["oidc"] == {"issuer": "", "clientId": ""}
    jsonschema.validate(values(done), json.loads((ROOT / "chart" / "values.schema.json").read_text()))


@pytest.mark.parametrize("name", ["oidcClientId", "oidcClientSecret", "oidcUsers"])
def test_each_part_of_a_login_needs_the_others(name: str) -> None:
    assert f"{name} is not set, and oidcIssuer is" in refusal(without(name))
    alone = {**CAMPUS, "host": "r.example.org", name: LOGIN[name]}
    assert f"{name} is set\n    allowed: only together with oidcIssuer" in refusal(alone)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (without("host"), "pulumi config set host r.example.org"),
        ({**LOGIN, "oidcIssuer": "http://login.example.org"}, "begins with https://"),
        ({**LOGIN, "oidcIssuer": "https://login.example.org?realm=team"}, "begins with https://"),
        ({**LOGIN, "oidcUsers": "ada"}, "'ada' is not an e-mail address, @DOMAIN"),
        ({**LOGIN, "oidcUsers": "**"}, "'**' is not an e-mail address, @DOMAIN"),
        ({**LOGIN, "oidcClientSecret": "short"}, "of 8 to 1000 printable characters"),
        ({**LOGIN, "oidcClientSecret": "with a blank"}, "of 8 to 1000 printable characters"),
        ({**LOGIN, "oidcClientId": "with a blank"}, "an ID without a blank"),
        ({**LOGIN, "chartValues": {"oidc": {"users": ["*"]}}}, "pulumi config rm --path chartValues.oidc.users"),
    ],
)
def test_wrong_login_is_refused_with_a_fix(config: dict[str, Any], said: str) -> None:
    message = refusal(config)
    assert said in message
    assert "of-the-provider" not in message
    assert "with a blank" not in message or "oidcClientId" in message


def test_client_secret_in_plain_text_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULUMI_CONFIG_SECRET_KEYS", "[]")
    assert "pulumi config set --secret oidcClientSecret" in refusal(LOGIN)


def test_quota_of_the_namespace_has_room_for_the_proxy() -> None:
    before, after = (values(program(each))["resourceQuota"]["hard"] for each in (without(*list(LOGIN)[-4:]), LOGIN))
    assert int(after["pods"]) == int(before["pods"]) + 1
