"""Promises of a stack on either cloud, tested on both."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from components.clouds.ingress import COMMANDS, RETRY
from tests.unit.both_clouds import EKS, Cloud, cloud, own_release
from tests.unit.cloud_mocks import (
    DRAWN,
    ROOT,
    Recording,
    is_secret,
    listing,
    plain,
    refusal_of,
)

__all__ = ["cloud"]


GOLDEN = Path(__file__).parent / "golden"


def test_example_stack_registers_its_golden_list(cloud: Cloud) -> None:
    golden = GOLDEN / f"{cloud.name}-team.txt"
    found = listing(cloud.team())
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(found)
    assert found == golden.read_text(), "if this change is meant: UPDATE_GOLDEN=1 pytest tests/unit/test_clouds.py"


def test_example_stack_warns_of_nothing(cloud: Cloud) -> None:
    assert cloud.team().warnings == []
    assert cloud.team(preview=True).warnings == []


def test_home_disk_is_deleted_with_its_claim(cloud: Cloud) -> None:
    disks = cloud.run().one("StorageClass").inputs
    assert disks["reclaimPolicy"] == "Delete", "destroy would leave the disk, billed"
    assert disks["volumeBindingMode"] == "WaitForFirstConsumer", "the disk could be in a zone without a system node"
    assert own_release(cloud.run()).inputs["values"]["scheduler"]["homeStorageClass"] == disks["metadata"]["name"]


def test_cluster_can_be_destroyed_without_an_update_before(cloud: Cloud) -> None:
    assert cloud.run().one(cloud.cluster).inputs["deletionProtection"] is False


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


def test_every_resource_has_a_component_parent_and_the_stacks_provider(cloud: Cloud) -> None:
    done = cloud.team()
    components = {resource.urn for resource in done.resources if not resource.custom}
    wanted = {"gcp": "gke-team-google", "aws": "eks-team-aws", "kubernetes": f"{cloud.name}-team-kubernetes"}
    for resource in done.resources:
        if not resource.custom:
            continue
        assert resource.parent in components, resource.name
        assert not resource.protect, "an option that was meant for its parent"
        provider = wanted.get(resource.type.split(":")[0])
        assert provider is None or provider in resource.provider, f"{resource.name}: {resource.provider or 'default'}"


def test_physical_names_differ_between_two_stacks_of_one_name(cloud: Cloud) -> None:
    for resource in cloud.everything.resources:
        if resource.type.startswith(("gcp:", "aws:")):
            assert DRAWN in resource.inputs.get("name", DRAWN), f"{resource.name}: names with a drawn part differ"


def test_kubernetes_provider_has_a_cluster_identifier(cloud: Cloud) -> None:
    assert cloud.run().one("pulumi:providers:kubernetes").inputs["clusterIdentifier"].startswith(cloud.identifier)


def test_release_waits_for_storage_ingress_and_autoscaler(cloud: Cloud) -> None:
    done = cloud.everything
    release = own_release(done)
    needed = [
        *done.all("StorageClass"),
        *done.all("PersistentVolume"),
        *(entry for entry in done.all("v3:Release") if entry is not release),
        *done.all(cloud.pool),
        *done.all("eks/addon:Addon"),
    ]
    assert len(needed) >= 5
    for each in needed:
        assert done.goes_before(release, each), f"the release could go ahead without {each.name}, or outlive it"


def test_state_without_the_guard_and_its_dependents_still_holds_every_cloud_resource(cloud: Cloud) -> None:
    done = cloud.everything
    guard = done.one("DestroyGuard")
    forgotten = [entry for entry in done.resources if entry is not guard and done.goes_before(entry, guard)]
    assert {entry.name for entry in forgotten} >= {entry.name for entry in done.all("v3:Release")}
    for entry in forgotten:
        assert not entry.type.startswith(("gcp:", "aws:")), f"{entry.name} would stay in the cloud, and be billed"


def test_permissions_outlive_nodes_and_control_plane(cloud: Cloud) -> None:
    done = cloud.team()
    rights = [entry for entry in done.resources if "-nodes-" in entry.name and "iam" in entry.type.lower()]
    assert len(rights) >= 2
    for pool in done.all(cloud.pool):
        for right in rights:
            assert done.goes_before(pool, right), f"{pool.name} would start without {right.name}"
    for right in done.all("RolePolicyAttachment", "-control-plane-"):
        assert done.goes_before(done.one(cloud.cluster), right), "the control plane could not take away what it made"


def test_changed_machine_type_or_spot_creates_the_new_pool_first(cloud: Cloud) -> None:
    keys = {"gke": ("nodeConfig.machineType", "nodeConfig.spot"), "eks": ("instanceTypes", "capacityType")}[cloud.name]
    for pool in cloud.team().all(cloud.pool):
        assert keys[0] in pool.replace_on_changes
        assert not pool.delete_before_replace
        assert cloud.drawn_name not in pool.inputs, "two pools of one name cannot stand side by side"
    assert keys[1] in cloud.team().one(cloud.pool, "workers").replace_on_changes


def test_pulumi_ignores_node_counts_that_the_autoscaler_owns(cloud: Cloud) -> None:
    ignored = {"gke": "nodeCount", "eks": "scalingConfig.desiredSize"}[cloud.name]
    for pool in cloud.run({"workers": 10, "maxWorkers": 40}).all(cloud.pool):
        assert ignored in pool.ignore_changes, pool.name


@pytest.mark.parametrize("most", [40, 80])
def test_more_workers_change_only_pool_and_worker_deployment(cloud: Cloud, most: int) -> None:
    before = cloud.run({"workers": 4, "maxWorkers": most if most > 40 else 4})
    after = cloud.run({"workers": 40, "maxWorkers": most})
    changed = {
        resource.name: {
            key for key in {*resource.inputs, *old.inputs} if resource.inputs.get(key) != old.inputs.get(key)
        }
        for resource, old in zip(
            sorted(after.resources, key=lambda entry: entry.urn),
            sorted(before.resources, key=lambda entry: entry.urn),
            strict=True,
        )
        if resource.inputs != old.inputs
    }
    pool = after.one(cloud.pool, "workers")
    size = {"gke": "nodeCount", "eks": "scalingConfig"}[cloud.name]
    # Only the autoscaler adds nodes to a pool with a fixed maximum.
    pools = {} if most == 80 else {pool.name: {size}}
    changed = {name: keys - set(pool.ignore_changes) if name == pool.name else keys for name, keys in changed.items()}
    assert changed == {**pools, "future-team": {"values"}}
    values = [own_release(done).inputs["values"] for done in (before, after)]
    assert values[0]["scheduler"] == values[1]["scheduler"]
    assert values[0]["worker"]["resources"] == values[1]["worker"]["resources"]


def test_planned_workers_fit_on_a_node_beside_its_daemon_sets(cloud: Cloud) -> None:
    """By figures from the sources that sizing names, for four workers on 4 vCPUs and 16 GiB."""
    requests = own_release(cloud.run({"workers": 4})).inputs["values"]["worker"]["resources"]["requests"]
    cpu, memory = int(requests["cpu"].removesuffix("m")), int(requests["memory"].removesuffix("Mi"))
    kubelet = {"gke": 2.6 * 1024, "eks": 255 + 11 * 58}[cloud.name]
    daemons = {"gke": (600, 800), "eks": (300, 600)}[cloud.name]
    assert 4 * cpu <= 4000 - 80 - daemons[0]
    assert 4 * memory <= 16384 * 0.925 - kubelet - 100 - daemons[1]
    assert cpu > 700, "much is left unused"
    assert memory > 2500, "much is left unused"


def test_node_shell_command_names_a_node(cloud: Cloud, tmp_path: Path) -> None:
    """Pasted into a shell whose kubectl answers as that cloud's nodes are called."""
    answer, target = {
        "gke": ("node/gke-a\\nnode/gke-b", "compute ssh gke-a --project my-project --zone us-west1-a"),
        "eks": ("aws:///us-west-2a/i-0abc", "ssm start-session --region us-west-2 --target i-0abc"),
    }[cloud.name]
    for name, script in (("kubectl", f"printf '%b' '{answer}'"), ("gcloud", 'echo "$@"'), ("aws", 'echo "$@"')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    command = cloud.run().outputs["nodeShell"][0]
    done = subprocess.run(
        ["bash", "-c", command], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(target), done.stdout


def test_kubeconfig_and_registry_password_are_secret_and_short_lived(cloud: Cloud) -> None:
    done = cloud.run()
    assert "kubeconfig" in done.one("pulumi:providers:kubernetes").secrets
    assert "kubeconfig" in done.one("DestroyGuard").secrets
    text, secret = done.outputs["kubeconfig"]
    assert secret
    user = json.loads(text)["users"][0]["user"]
    assert list(user) == ["exec"]
    assert [user["exec"]["command"], *user["exec"].get("args", [])][: len(cloud.plugin)] == cloud.plugin
    registries = done.one("docker-build:index:Image").sent["registries"]
    assert "short-lived-token" in json.dumps(plain(registries))
    assert is_secret(registries) or all(is_secret(entry) or is_secret(entry["password"]) for entry in registries)
    for resource in done.resources:
        if resource.type != "docker-build:index:Image":
            assert "short-lived-token" not in json.dumps(resource.sent), resource.name


def who_may_reach(done: Recording, cloud: Cloud) -> list[str] | None:
    inputs = done.one(cloud.cluster).inputs
    if cloud is EKS:
        cidrs: list[str] | None = inputs["vpcConfig"].get("publicAccessCidrs")
        return cidrs
    blocks = inputs.get("masterAuthorizedNetworksConfig")
    return [block["cidrBlock"] for block in blocks["cidrBlocks"]] if blocks else None


def test_only_stated_networks_reach_the_control_plane_by_address(cloud: Cloud) -> None:
    stated = cloud.run({"authorizedNetworks": "0.0.0.0/0"})
    assert stated.warnings == []
    assert who_may_reach(stated, cloud) == ["0.0.0.0/0"]
    assert who_may_reach(cloud.run({"authorizedNetworks": "203.0.113.0/24"}), cloud) == ["203.0.113.0/24"]


def test_open_control_plane_on_eks_warns_unless_stated() -> None:
    silent = EKS.run({"authorizedNetworks": ""})
    assert who_may_reach(silent, EKS) is None
    assert len(silent.warnings) == 1
    assert "pulumi config set authorizedNetworks" in silent.warnings[0]
    assert len(EKS.run({"authorizedNetworks": ""}, preview=True).warnings) == 1


def test_only_routes_name_the_whole_internet(cloud: Cloud) -> None:
    for done in (cloud.team(), cloud.run({"authorizedNetworks": ""}), cloud.everything):
        for resource in done.resources:
            if not resource.type.endswith("RouteTable"):
                assert "0.0.0.0/0" not in json.dumps(resource.inputs), resource.name


def test_only_the_chosen_clouds_sdk_is_imported(cloud: Cloud) -> None:
    script = (
        "import sys, shutil; sys.path.insert(0, '.'); shutil.which = lambda name: name\n"
        f"from {cloud.run.__module__} import {cloud.name} as cloud\n"
        "from components.clouds.google import catalog\n"
        "catalog.fetch = lambda *_: {}\n"
        f"cloud({{'host': 'r.example.org', 'sharedGiB': {cloud.shared_gib}, 'maxWorkers': 40}})\n"
        "clouds = ('pulumi_aws', 'pulumi_gcp', 'components.clouds.aws.cluster', 'components.clouds.google.cluster')\n"
        "print(sorted(name for name in sys.modules if name in clouds))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    folder = {"eks": "aws", "gke": "google"}[cloud.name]
    assert done.stdout.strip() == str([f"components.clouds.{folder}.cluster", cloud.sdk])


def test_silence_of_a_cloud_is_taken_for_an_answer_only_in_messages() -> None:
    """Anywhere else the lookup says what is not checked, or stops the update."""
    found = set()
    for path in sorted((ROOT / "components").rglob("*.py")):
        for function in ast.walk(ast.parse(path.read_text())):
            if not isinstance(function, ast.FunctionDef):
                continue
            calls = (node.func for node in ast.walk(function) if isinstance(node, ast.Call))
            if any("ask_or_none" in (getattr(call, "id", ""), getattr(call, "attr", "")) for call in calls):
                found.add(f"{path.parent.name}/{path.stem}.{function.name}")
    assert found == {
        "aws/free_plan.eligible_types",  # machine types to suggest
        "aws/preflight.size_workers",  # likewise
        "aws/preflight.others",
        "aws/given_network.check_way_out",  # most subnets have no route table of their own; that of the VPC says it
    }
