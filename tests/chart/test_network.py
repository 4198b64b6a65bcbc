"""The network policies."""

from collections.abc import Mapping
from typing import Any

from tests.chart.conftest import CASES, Helm
from tests.chart.manifest import Object, Objects, one, pod, selects


def test_nothing_connects_to_a_worker(helm: Helm) -> None:
    spec = one(helm.objects({}), "NetworkPolicy", "-worker")["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in spec


def test_only_this_releases_workers_reach_the_broker(helm: Helm) -> None:
    objects = helm.objects({})
    rules = one(objects, "NetworkPolicy", "-scheduler")["spec"]["ingress"]
    [rule] = [rule for rule in rules if {"protocol": "TCP", "port": "future"} in rule["ports"]]
    assert len(rule["ports"]) == 1
    [peer] = rule["from"]
    assert set(peer) == {"podSelector"}
    assert selects(peer["podSelector"]["matchLabels"], pod(objects, "worker")["metadata"]["labels"])
    for labels in (pod(objects, "test"), pod(helm.objects({}, release="other"), "worker")):
        assert not selects(peer["podSelector"]["matchLabels"], labels["metadata"]["labels"])


def test_ide_is_reachable_from_outside_only_with_a_host(helm: Helm) -> None:
    def ide_rule(values: Mapping[str, Any]) -> Object:
        rules = one(helm.objects(values), "NetworkPolicy", "-scheduler")["spec"]["ingress"]
        [rule] = [rule for rule in rules if {"protocol": "TCP", "port": "ide"} in rule["ports"]]
        return dict(rule)

    assert ide_rule({}) == {"ports": [{"protocol": "TCP", "port": "ide"}], "from": [{"namespaceSelector": {}}]}
    assert ide_rule(CASES["host"]) == {"ports": [{"protocol": "TCP", "port": "ide"}]}


def test_metrics_are_reachable_only_for_peers_and_test_pod(helm: Helm) -> None:
    for values, more in (({}, []), (CASES["closed-network"], CASES["closed-network"]["networkPolicy"]["metricsFrom"])):
        objects = helm.objects(values)
        rules = one(objects, "NetworkPolicy", "-scheduler")["spec"]["ingress"]
        [rule] = [rule for rule in rules if {"protocol": "TCP", "port": "http"} in rule["ports"]]
        own, *others = rule["from"]
        assert others == more
        assert selects(own["podSelector"]["matchLabels"], pod(objects, "test")["metadata"]["labels"])


def egress(objects: Objects, component: str) -> list[Object]:
    return list(one(objects, "NetworkPolicy", f"-{component}")["spec"]["egress"])


def test_workers_reach_dns_the_broker_and_public_addresses(helm: Helm) -> None:
    objects = helm.objects({})
    dns, broker, internet = egress(objects, "worker")
    assert dns == {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]}
    assert broker["ports"] == [{"protocol": "TCP", "port": "future"}]
    [peer] = broker["to"]
    assert selects(peer["podSelector"]["matchLabels"], pod(objects, "scheduler")["metadata"]["labels"])
    assert [block["ipBlock"]["cidr"] for block in internet["to"]] == ["0.0.0.0/0", "::/0"]
    # Clouds hand out the node's credentials at 169.254.169.254.
    assert "169.254.0.0/16" in internet["to"][0]["ipBlock"]["except"]
    assert len(egress(helm.objects({"networkPolicy": {"workerInternet": False}}), "worker")) == 2


def test_the_scheduler_reaches_dns_the_api_server_and_public_addresses(helm: Helm) -> None:
    _, api, internet = egress(helm.objects({}), "scheduler")
    assert [port["port"] for port in api["ports"]] == [443, 6443]
    assert "169.254.0.0/16" in internet["to"][0]["ipBlock"]["except"]
    closed = egress(helm.objects(CASES["closed-network"]), "scheduler")
    assert closed[1:] == [
        {"ports": [{"protocol": "TCP", "port": 443}], "to": [{"ipBlock": {"cidr": "10.0.0.1/32"}}]},
        *CASES["closed-network"]["networkPolicy"]["extraEgress"],
    ]


def test_a_server_of_credentials_opens_its_address_and_https(helm: Helm) -> None:
    objects = helm.objects(CASES["buckets"])
    server = {
        "ports": [{"protocol": "TCP", "port": 80}],
        "to": [{"ipBlock": {"cidr": "169.254.170.23/32"}}],
    }
    *before, opened, https = egress(objects, "worker")
    assert before == egress(helm.objects({"networkPolicy": {"workerInternet": False}}), "worker")
    assert opened == server
    assert https["ports"] == [{"protocol": "TCP", "port": 443}]
    assert "169.254.0.0/16" in https["to"][0]["ipBlock"]["except"]
    # The scheduler reaches all ports of public addresses anyway.
    assert egress(objects, "scheduler") == [*egress(helm.objects({}), "scheduler"), server]
    assert server not in egress(objects, "test")


def test_pods_with_a_credentials_server_mount_no_more_tokens(helm: Helm) -> None:
    objects = helm.objects(CASES["buckets"])
    assert pod(objects, "worker")["spec"]["automountServiceAccountToken"] is False
    for component in ("scheduler", "worker"):
        assert pod(objects, component) == pod(helm.objects({}), component)


def test_dns_is_reached_at_its_own_ports_and_no_others(helm: Helm) -> None:
    objects = helm.objects({"networkPolicy": {"dnsPorts": [5353]}})
    for component in ("scheduler", "worker", "test"):
        [dns] = [
            rule for rule in egress(objects, component) if {"protocol": "UDP", "port": 5353} in rule.get("ports", [])
        ]
        assert dns == {"ports": [{"protocol": "UDP", "port": 5353}, {"protocol": "TCP", "port": 5353}]}
        assert not any(port["port"] == 53 for rule in egress(objects, component) for port in rule.get("ports", []))
