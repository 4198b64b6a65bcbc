"""Single sign-on in front of the IDE."""

from typing import Any

import pytest

from tests.chart.conftest import CASES, Helm, merged
from tests.chart.manifest import Object, Objects, container, mounts, one, pod, selects

CASE = CASES["oidc"]


def arguments(objects: Objects) -> dict[str, list[str]]:
    """Values of the proxy's arguments, by name."""
    found: dict[str, list[str]] = {}
    for argument in container(objects, "login")["args"]:
        name, _, value = argument.partition("=")
        found.setdefault(name.removeprefix("--"), []).append(value)
    return found


def backend(objects: Objects) -> Object:
    """The Service to which the Ingress sends."""
    [rule] = one(objects, "Ingress", "")["spec"]["rules"]
    [path] = rule["http"]["paths"]
    return dict(path["backend"]["service"])


def test_without_an_issuer_nothing_of_it_exists(helm: Helm) -> None:
    objects = helm.objects(CASES["host"])
    assert not [name for _, name in objects if name.endswith("-login")]
    assert backend(objects)["name"].endswith("-scheduler")


def test_ingress_leads_to_the_proxy_and_that_to_ide(helm: Helm) -> None:
    objects = helm.objects(CASE)
    assert backend(objects) == {"name": "lab-future-kubernetes-login", "port": {"name": "login"}}
    service = one(objects, "Service", "-login")["spec"]
    assert selects(service["selector"], pod(objects, "login")["metadata"]["labels"])
    [port] = service["ports"]
    assert (port["name"], port["targetPort"]) == ("login", "login")
    assert container(objects, "login")["ports"] == [{"name": "login", "containerPort": port["port"]}]
    assert arguments(objects)["upstream"] == ["http://lab-future-kubernetes-scheduler:8787/"]
    assert arguments(objects)["http-address"] == ["0.0.0.0:4180"]


def test_ide_takes_connections_of_proxy_and_test_pod_only(helm: Helm) -> None:
    objects = helm.objects(CASE)
    rules = one(objects, "NetworkPolicy", "-scheduler")["spec"]["ingress"]
    [rule] = [rule for rule in rules if {"protocol": "TCP", "port": "ide"} in rule["ports"]]
    admitted = [
        component
        for component in ("login", "test", "worker", "scheduler")
        if any(
            set(peer) == {"podSelector"}
            and selects(peer["podSelector"]["matchLabels"], pod(objects, component)["metadata"]["labels"])
            for peer in rule["from"]
        )
    ]
    assert admitted == ["login", "test"]
    assert len(rule["from"]) == 2


def test_proxy_reaches_dns_the_ide_and_public_addresses(helm: Helm) -> None:
    objects = helm.objects(merged(CASE, {"networkPolicy": {"extraEgress": [{"ports": [{"port": 8443}]}]}}))
    policy = one(objects, "NetworkPolicy", "-login")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["ingress"] == [{"ports": [{"protocol": "TCP", "port": "login"}]}]
    dns, ide, internet, private = policy["egress"]
    assert {port["port"] for port in dns["ports"]} == {53}
    assert ide["ports"] == [{"protocol": "TCP", "port": "ide"}]
    [peer] = ide["to"]
    assert selects(peer["podSelector"]["matchLabels"], pod(objects, "scheduler")["metadata"]["labels"])
    assert "169.254.0.0/16" in internet["to"][0]["ipBlock"]["except"]
    assert private == {"ports": [{"port": 8443}]}, "a provider of the campus"


@pytest.mark.parametrize(("path", "prefix"), [("/team/r/", "/team/r/oauth2"), ("/", "/oauth2")])
def test_paths_of_the_proxy_are_below_that_of_the_ide(helm: Helm, path: str, prefix: str) -> None:
    objects = helm.objects(merged(CASE, {"ingress": {"path": path}}))
    found = arguments(objects)
    assert found["proxy-prefix"] == [prefix]
    assert found["redirect-url"] == [f"https://r.example.org{prefix}/callback"]
    assert found["cookie-path"] == [path]
    assert (found["ping-path"], found["ready-path"]) == ([f"{prefix}/ping"], [f"{prefix}/ready"])
    probes = container(objects, "login")
    assert probes["readinessProbe"]["httpGet"]["path"] == f"{prefix}/ready"
    assert {probes[name]["httpGet"]["path"] for name in ("startupProbe", "livenessProbe")} == {f"{prefix}/ping"}


def test_users_are_addresses_in_a_file_and_domains_in_arguments(helm: Helm) -> None:
    objects = helm.objects(CASE)
    assert one(objects, "ConfigMap", "-login")["data"]["emails"].split() == ["ada@example.org"]
    assert arguments(objects)["email-domain"] == ["statistics.example.org"]
    assert mounts(objects, "login")["/etc/future-kubernetes/login"]["configMap"] == {
        "name": "lab-future-kubernetes-login"
    }
    assert arguments(objects)["authenticated-emails-file"] == ["/etc/future-kubernetes/login/emails"]
    everybody = helm.objects(merged(CASE, {"oidc": {"users": ["*"]}}))
    assert arguments(everybody)["email-domain"] == ["*"]
    assert one(everybody, "ConfigMap", "-login")["data"]["emails"].split() == []
    assert "email-domain" not in arguments(helm.objects(merged(CASE, {"oidc": {"users": ["ada@example.org"]}})))


def test_secrets_are_files_and_in_no_argument(helm: Helm) -> None:
    objects = helm.objects(CASE)
    volume = mounts(objects, "login")["/etc/future-kubernetes/oidc"]
    assert volume["secret"]["secretName"] == "r-oidc"
    assert {item["key"] for item in volume["secret"]["items"]} == {"client-secret", "cookie-secret"}
    assert volume["secret"]["defaultMode"] == 0o440
    found = arguments(objects)
    for name in ("client-secret", "cookie-secret"):
        assert found[f"{name}-file"] == [f"/etc/future-kubernetes/oidc/{name}"]
        assert name not in found
    assert "env" not in container(objects, "login")
    assert all(mount["readOnly"] for mount in container(objects, "login")["volumeMounts"])


def test_another_user_or_secret_restarts_the_proxy_only(helm: Helm) -> None:
    before = helm.objects(CASE)
    for change in ({"users": ["bob@example.org", "@statistics.example.org"]}, {"secretVersion": "2"}):
        after = helm.objects(merged(CASE, {"oidc": change}))
        assert pod(after, "login") != pod(before, "login"), change
        for component in ("scheduler", "worker"):
            assert pod(after, component) == pod(before, component)


def test_proxy_runs_where_the_scheduler_does(helm: Helm) -> None:
    placed = {"nodeSelector": {"pool": "system"}, "tolerations": [{"key": "a", "operator": "Exists"}]}
    spec = pod(helm.objects(merged(CASE, {"scheduler": placed})), "login")["spec"]
    assert {key: spec[key] for key in placed} == placed


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"host": ""}, "--set host=r.example.org"),
        ({"oidc": {"clientId": ""}}, "--set oidc.clientId=ID"),
        ({"oidc": {"existingSecret": ""}}, "create secret generic NAME --from-file=client-secret=FILE"),
        ({"oidc": {"users": []}}, "no one could log in"),
        ({"oidc": {"issuer": ""}}, "nothing would ask for a login"),
        ({"oidc": {"issuer": "http://login.example.org"}}, "issuer"),
        ({"oidc": {"users": ["ada"]}}, "users"),
    ],
)
def test_incomplete_login_is_refused_with_its_fix(helm: Helm, change: dict[str, Any], said: str) -> None:
    assert said in helm.refusal(merged(CASE, change))
