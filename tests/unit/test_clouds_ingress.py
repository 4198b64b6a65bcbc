"""The ingress on either cloud: only HTTPS, its address, its certificate and who may open the page."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from components.clouds.ingress import COMMANDS, RETRY
from tests.unit.both_clouds import Cloud, cloud, own_release
from tests.unit.cloud_mocks import refusal_of

__all__ = ["cloud"]


def test_ingress_serves_only_https_and_keeps_its_certificate(cloud: Cloud) -> None:
    assert cloud.run().all("v3:Release", "traefik") == []
    values = cloud.run({"host": "r.example.org"}).one("v3:Release", "traefik").inputs["values"]
    assert values["ports"]["web"]["expose"] == {"default": False}
    assert values["providers"]["kubernetesIngress"]["ingressClass"] == values["ingressClass"]["name"]
    assert own_release(cloud.everything).inputs["values"]["ingress"]["className"] == values["ingressClass"]["name"]
    assert values["ingressClass"]["isDefaultClass"] is False, "other Ingresses of the cluster are none of ours"
    assert values["ingressRoute"]["dashboard"]["enabled"] is False
    assert values["api"]["dashboard"] is False
    assert values["persistence"]["enabled"] is True
    assert values["persistence"]["storageClass"] == "future-disks"
    assert values["certificatesResolvers"]["letsencrypt"]["acme"]["storage"].startswith("/data/")
    # An empty map would vanish in Traefik's chart, and with it the only way to a certificate.
    assert values["certificatesResolvers"]["letsencrypt"]["acme"]["tlsChallenge"] is True
    assert values["deployment"]["replicas"] == 1
    assert values["updateStrategy"] == {"type": "Recreate", "rollingUpdate": None}
    assert values["nodeSelector"] == {"future-kubernetes/role": "system"}


def test_load_balancer_reaches_the_ide_through_no_worker_node(cloud: Cloud) -> None:
    values = cloud.everything.one("v3:Release", "traefik").inputs["values"]
    assert values["service"]["spec"]["externalTrafficPolicy"] == "Local", "the end of a spot worker would cut it off"


def test_public_address_is_known_without_a_question_to_the_cluster(cloud: Cloud) -> None:
    """A read would fail every preview from a new home address, and with it the change of `authorizedNetworks`."""
    done = cloud.everything
    assert not [resource for resource in done.resources if resource.type.endswith("core/v1:Service")]
    address = done.one(cloud.address, "-public")
    assert done.goes_before(done.one("v3:Release", "traefik"), address), "the load balancer would not find it"
    assert done.goes_before(done.one("DestroyGuard"), address), "the cloud keeps an address that is in use"


def test_certificate_is_requested_with_the_given_e_mail_address(cloud: Cloud) -> None:
    given = {"host": "r.example.org", "acmeEmail": "admin@example.org"}
    values = cloud.run(given).one("v3:Release", "traefik").inputs["values"]
    assert values["certificatesResolvers"]["letsencrypt"]["acme"]["email"] == "admin@example.org"
    without = cloud.everything.one("v3:Release", "traefik").inputs["values"]
    assert "email" not in without["certificatesResolvers"]["letsencrypt"]["acme"]


def retry_container(cloud: Cloud) -> tuple[dict[str, Any], dict[str, Any]]:
    values = cloud.everything.one("v3:Release", "traefik").inputs["values"]
    (container,) = values["deployment"]["additionalContainers"]
    return values, container


def test_only_host_networks_open_the_page(cloud: Cloud) -> None:
    given = {"host": "r.example.org", "hostNetworks": "203.0.113.0/24,198.51.100.7/32"}
    done = cloud.run(given)
    values = done.one("v3:Release", "traefik").inputs["values"]
    # A map, and no text: the schema of Traefik's chart refuses a text.
    rules = values["providers"]["file"]["content"]["http"]["middlewares"]
    assert rules == {"host-networks": {"ipAllowList": {"sourceRange": ["203.0.113.0/24", "198.51.100.7/32"]}}}
    annotations = own_release(done).inputs["values"]["ingress"]["annotations"]
    assert annotations["traefik.ingress.kubernetes.io/router.middlewares"] == "host-networks@file"
    # Otherwise Traefik would see the address of a node, and Let's Encrypt could not connect.
    assert values["service"]["spec"]["externalTrafficPolicy"] == "Local"
    assert "loadBalancerSourceRanges" not in values["service"]["spec"]
    without = cloud.run({"host": "r.example.org"})
    assert "file" not in without.one("v3:Release", "traefik").inputs["values"]["providers"]
    assert not any("middlewares" in key for key in own_release(without).inputs["values"]["ingress"]["annotations"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"hostNetworks": "203.0.113.0/24"}, "hostNetworks is set\n    allowed: only together with host"),
        ({"host": "r.example.org", "hostNetworks": "203.0.113.1/24"}, "has host bits set"),
        ({"host": "r.example.org", "hostNetworks": "2001:db8::/32"}, "only IPv4 here"),
        ({"host": "r.example.org", "hostNetworks": "campus"}, "'campus' is not an IPv4 network"),
    ],
)
def test_wrong_host_networks_are_refused(cloud: Cloud, given: dict[str, Any], message: str) -> None:
    assert message in refusal_of(lambda: cloud.run(given))


def test_certificate_retry_ends_only_traefik(tmp_path: Path) -> None:
    for number, name in ((1, "pause"), (7, "traefik"), (8, "traefik-hub"), (9, "sh")):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "comm").write_text(f"{name}\n")
    (tmp_path / "10").mkdir()  # ended meanwhile
    script = f"kill() {{ echo killed $1; }}\n{COMMANDS}end_traefik"
    environment = {"PATH": os.environ["PATH"], "PROC": str(tmp_path)}
    done = subprocess.run(["sh", "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n") == ["killed 7", ""]


def test_certificate_retry_may_end_traefik_and_read_its_file(cloud: Cloud) -> None:
    values, container = retry_container(cloud)
    assert values["deployment"]["shareProcessNamespace"] is True
    assert container["image"] == f"docker.io/traefik:{values['image']['tag']}", "another image would be pulled"
    names = {entry["name"]: entry["value"] for entry in container["env"]}
    assert container["command"] == ["sh", "-c", COMMANDS + RETRY]
    assert names["NAME"] == "r.example.org"
    assert names["ADDRESSES"] == cloud.everything.outputs["hostAddress"][0]
    assert names["STORAGE"] == values["certificatesResolvers"]["letsencrypt"]["acme"]["storage"]
    assert "runAsUser" not in container["securityContext"], "another user's process could not be ended"


ANSWER = (
    "Server:\t\t10.0.0.10\nAddress:\t10.0.0.10:53\n\nNon-authoritative answer:\nName:\tr.example.org\nAddress: {}\n"
)
"""Output of BusyBox's nslookup."""


@pytest.mark.parametrize(
    ("answers", "certificate_after", "said"),
    [
        # DNS is late: nothing is ended, so that Let's Encrypt counts no failure.
        (["no", "198.51.100.8", "198.51.100.9"], 1, ["180", "30", "30", "end", "900", "86400"]),
        # The load balancer is late: the first request fails, and the next comes a quarter of an hour later.
        (["198.51.100.9"], 2, ["180", "end", "900", "end", "900", "86400"]),
        # It works at once.
        (["198.51.100.9"], 0, ["180", "86400"]),
        # Addresses of which ours is a part, and that are a part of ours.
        (["198.51.100.99", "98.51.100.9", "198.51.100.9"], 1, ["180", "30", "30", "end", "900", "86400"]),
    ],
)
def test_certificate_is_requested_again_once_dns_points_to_the_address(
    tmp_path: Path, answers: list[str], certificate_after: int, said: list[str]
) -> None:
    """The script itself, with stand-ins for the commands that reach out."""
    storage, log = tmp_path / "acme.json", tmp_path / "log"
    found = json.dumps({"letsencrypt": {"Certificates": [{"domain": {"main": "r.example.org"}}]}}, indent=2)
    for number, answer in enumerate(answers, 1):
        (tmp_path / f"answer{number}").write_text("" if answer == "no" else ANSWER.format(answer))
    (tmp_path / "certificate").write_text(found)
    storage.write_text(found if certificate_after == 0 else json.dumps({"letsencrypt": {"Account": {"Email": ""}}}))
    stand_ins = f"""
pause() {{ echo "$1" >> {log}; [ "$1" = 86400 ] && exit 0; return 0; }}
asked=0
nslookup() {{ cat {tmp_path}/answer$(cat {tmp_path}/asked); }}
end_traefik() {{
  echo end >> {log}; [ "$(grep -c end {log})" -ge {certificate_after} ] && cp {tmp_path}/certificate {storage}; return 0
}}
"""
    # The counter is a file, because the left side of a pipe is a process of its own.
    stand_ins = stand_ins.replace(
        "nslookup() {",
        f"nslookup() {{ n=$(($(cat {tmp_path}/asked 2>/dev/null || echo 0) + 1));"
        f" [ $n -le {len(answers)} ] || n={len(answers)}; echo $n > {tmp_path}/asked;",
    )
    environment = {
        "PATH": os.environ["PATH"],
        "NAME": "r.example.org",
        "ADDRESSES": "203.0.113.1 198.51.100.9",
        "STORAGE": str(storage),
    }
    done = subprocess.run(
        ["sh", "-c", stand_ins + RETRY], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert log.read_text().split() == said, done.stdout + done.stderr


def test_ingress_has_no_read_timeout(cloud: Cloud) -> None:
    values = cloud.everything.one("v3:Release", "traefik").inputs["values"]
    timeouts = values["ports"]["websecure"]["transport"]["respondingTimeouts"]
    assert timeouts == {"readTimeout": "0s"}, "Traefik would cut off a large file after 60 s"


def test_ingress_release_waits_fifteen_minutes(cloud: Cloud) -> None:
    assert cloud.everything.one("v3:Release", "traefik").inputs["timeout"] == 900
