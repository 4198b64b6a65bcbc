"""GKE under mocks: control plane, network, storage, registry, order of deletion, labels and outputs."""

from __future__ import annotations

import ipaddress
import itertools
import json
import re
from typing import Any

import pytest

from tests.unit.cloud_mocks import labelled, run, stack_config
from tests.unit.google_cloud import ANSWERS, computed, gke, refused, team

pytestmark = pytest.mark.usefixtures("installed_tools")


def test_zone_creates_a_zonal_cluster_and_region_a_regional_one() -> None:
    zonal = gke({"zone": "us-west1-b"})
    assert zonal.one("cluster:Cluster").inputs["location"] == "us-west1-b"
    assert "--location us-west1-b " in zonal.outputs["kubeconfigCommand"][0]
    assert "--context gke_my-project_us-west1-b_" in zonal.outputs["portForward"][0]
    assert gke().one("cluster:Cluster").inputs["location"] == "us-west1"


def test_cluster_is_vpc_native_with_workload_identity_and_dataplane_v2() -> None:
    cluster = gke().one("cluster:Cluster").inputs
    assert cluster["networkingMode"] == "VPC_NATIVE"
    assert cluster["releaseChannel"] == {"channel": "REGULAR"}
    assert cluster["workloadIdentityConfig"] == {"workloadPool": "my-project.svc.id.goog"}
    assert cluster["datapathProvider"] == "ADVANCED_DATAPATH"
    assert cluster["deletionProtection"] is False


def test_google_upgrades_the_cluster_only_in_the_chosen_window() -> None:
    window = gke().one("cluster:Cluster").inputs["maintenancePolicy"]["recurringWindow"]
    assert window["recurrence"] == "FREQ=WEEKLY;BYDAY=SA,SU", "at any hour, it would end R sessions"
    assert (window["startTime"], window["endTime"]) == ("2026-01-01T02:00:00Z", "2026-01-01T10:00:00Z")
    chosen = gke({"maintenanceWindow": "MO,TU,FR 22:30"}).one("cluster:Cluster").inputs["maintenancePolicy"]
    assert chosen["recurringWindow"] == {
        "recurrence": "FREQ=WEEKLY;BYDAY=MO,TU,FR",
        "startTime": "2026-01-01T22:30:00Z",
        "endTime": "2026-01-02T06:30:00Z",
    }


@pytest.mark.parametrize("value", ["SA 02:00", "SA,SU", "SA,SU 24:00", "sat,sun 02:00", "SA,SU  02:00"])
def test_window_that_google_would_refuse_is_refused(value: str) -> None:
    assert "pulumi config set maintenanceWindow 'SA,SU 22:00'" in refused({"maintenanceWindow": value})


def test_filestore_exists_only_with_shared_gib() -> None:
    assert gke().all("instance:Instance") == []
    shared = gke({"sharedGiB": 1024})
    assert shared.one("filestore/instance:Instance").inputs["fileShares"] == {"capacityGb": 1024, "name": "shared"}
    drivers = [done.one("cluster:Cluster").inputs["addonsConfig"] for done in (gke(), shared)]
    assert [driver["gcpFilestoreCsiDriverConfig"]["enabled"] for driver in drivers] == [False, True]
    instance = shared.one("filestore/instance:Instance")
    assert instance.inputs["location"] == "us-west1-a", "a basic instance is in a zone: the scheduler's"
    assert [entry["network"] for entry in instance.inputs["networks"]] == [shared.one("network:Network").name + "-id"]
    volume = shared.one("core/v1:PersistentVolume", "-shared").inputs["spec"]
    assert volume["persistentVolumeReclaimPolicy"] == "Retain", "the driver would delete what Pulumi manages"
    assert volume["accessModes"] == ["ReadWriteMany"]
    assert volume["csi"]["volumeHandle"] == f"modeInstance/us-west1-a/{instance.name}-0a1b2c3/shared"
    assert volume["csi"]["volumeAttributes"] == {"ip": "10.20.0.2", "volume": "shared"}
    assert (
        shared.one("v3:Release", "future-team").inputs["values"]["shared"]["storageClass"] == volume["storageClassName"]
    )


def test_kubernetes_api_is_reached_by_name_without_given_networks() -> None:
    """A list of addresses goes stale with every new home address, and IAM does not."""
    done = gke({"authorizedNetworks": ""})
    cluster = done.one("container/cluster:Cluster").inputs
    assert cluster["controlPlaneEndpointsConfig"] == {
        "dnsEndpointConfig": {"allowExternalTraffic": True},
        "ipEndpointsConfig": {"enabled": False},
    }
    assert "masterAuthorizedNetworksConfig" not in cluster, "it would switch the address on"
    (entry,) = json.loads(done.outputs["kubeconfig"][0])["clusters"]
    assert entry["cluster"] == {"server": "https://gke-0a1b.us-west1.gke.goog"}, "a public authority signs for it"
    assert done.outputs["kubeconfigCommand"][0].endswith(" --dns-endpoint")
    assert done.warnings == []


def test_kubernetes_api_is_reached_by_address_from_the_given_networks() -> None:
    done = gke({"authorizedNetworks": "203.0.113.0/24"})
    cluster = done.one("container/cluster:Cluster").inputs
    assert cluster["controlPlaneEndpointsConfig"] == {
        "dnsEndpointConfig": {"allowExternalTraffic": False},
        "ipEndpointsConfig": {"enabled": True},
    }
    assert cluster["masterAuthorizedNetworksConfig"]["gcpPublicCidrsAccessEnabled"] is False
    (entry,) = json.loads(done.outputs["kubeconfig"][0])["clusters"]
    assert entry["cluster"] == {"server": "https://198.51.100.7", "certificate-authority-data": "Q0E="}
    assert "--dns-endpoint" not in done.outputs["kubeconfigCommand"][0]


def test_claim_of_filestore_outlives_a_failed_release() -> None:
    """Retain keeps a volume for the claim that it was bound to, and the next claim would wait for ever."""
    done = gke({"sharedGiB": 1024})
    claim, volume = (done.one(f"core/v1:{kind}", "-shared") for kind in ("PersistentVolumeClaim", "PersistentVolume"))
    assert claim.inputs["spec"]["accessModes"] == ["ReadWriteMany"], "scheduler and all workers mount it"
    release = done.one("v3:Release", "future-team")
    assert release.inputs["values"]["shared"]["existingClaim"] == claim.inputs["metadata"]["name"]
    assert claim.inputs["spec"]["volumeName"] == volume.inputs["metadata"]["name"]
    assert claim.inputs["spec"]["storageClassName"] == volume.inputs["spec"]["storageClassName"]
    bound = {key: claim.inputs["metadata"][key] for key in ("namespace", "name")}
    assert volume.inputs["spec"]["claimRef"] == bound, "no other claim may take it"
    assert (volume.replace_on_changes, volume.delete_before_replace) == (["spec.claimRef"], True)
    assert done.goes_before(release, claim)
    assert done.goes_before(claim, done.one("core/v1:Namespace"))
    assert done.goes_before(claim, volume)
    larger = gke({"sharedGiB": 2048})
    assert larger.one("PersistentVolumeClaim", "-shared").inputs == claim.inputs, "Kubernetes refuses a change of it"
    assert not gke().all("PersistentVolumeClaim", "-shared")


def test_load_balancer_exists_only_with_host() -> None:
    assert len(gke().all("v3:Release")) == 1
    public = gke({"host": "r.example.org"})
    assert public.one("v3:Release", "traefik").inputs["version"]
    release = next(entry for entry in public.all("v3:Release") if "traefik" not in entry.name).inputs["values"]
    assert release["ingress"]["className"] == "future-kubernetes"
    assert release["ingress"]["annotations"]["traefik.ingress.kubernetes.io/router.tls.certresolver"] == "letsencrypt"
    assert public.outputs["hostAddress"][0] == "198.51.100.9"
    address = public.one("compute/address:Address")
    assert (address.inputs["region"], address.inputs["addressType"]) == ("us-west1", "EXTERNAL")
    service = public.one("v3:Release", "traefik").inputs["values"]["service"]
    assert service["spec"]["loadBalancerIP"] == "198.51.100.9"
    assert not gke().all("compute/address:Address"), "an address that nothing uses is billed"


def test_given_image_and_network_create_neither() -> None:
    done = gke({"image": "ghcr.io/o/i@sha256:" + "b" * 64, "network": "campus", "subnets": "lab"})
    assert done.all("artifactregistry/repository:Repository") == []
    for made in ("network:Network", "subnetwork:Subnetwork", "routerNat:RouterNat", "firewall:Firewall"):
        assert done.all(made) == []
    cluster = done.one("cluster:Cluster").inputs
    assert (cluster["network"], cluster["subnetwork"]) == ("campus", "lab")
    assert not cluster["ipAllocationPolicy"], "GKE makes the ranges that a subnetwork of others lacks"


def test_new_network_has_the_clusters_secondary_ranges() -> None:
    done = gke()
    network, subnet = done.one("network:Network"), done.one("subnetwork:Subnetwork")
    assert network.inputs["autoCreateSubnetworks"] is False
    assert (subnet.inputs["network"], subnet.inputs["region"]) == (f"{network.name}-id", "us-west1")
    assert subnet.inputs["privateIpGoogleAccess"] is True, "pulling the image from Google would go through the NAT"
    cluster = done.one("cluster:Cluster").inputs
    assert (cluster["network"], cluster["subnetwork"]) == (f"{network.name}-id", f"{subnet.name}-id")
    ranges = {entry["rangeName"] for entry in subnet.inputs["secondaryIpRanges"]}
    assert set(cluster["ipAllocationPolicy"].values()) == ranges


@pytest.mark.parametrize(
    ("cidr", "ranges"),
    [
        # As before there was the setting: other ranges would replace the clusters that are there.
        ("10.0.0.0/12", ["10.0.0.0/20", "10.4.0.0/14", "10.8.0.0/20"]),
        ("10.32.0.0/12", ["10.32.0.0/20", "10.36.0.0/14", "10.40.0.0/20"]),
        ("172.16.0.0/16", ["172.16.0.0/20", "172.16.64.0/18", "172.16.128.0/20"]),
        ("192.168.128.0/18", ["192.168.128.0/20", "192.168.144.0/20", "192.168.160.0/20"]),
    ],
)
def test_ranges_of_a_new_network_are_cut_from_vpc_cidr(cidr: str, ranges: list[str]) -> None:
    subnet = gke({"vpcCidr": cidr, "workers": 4}).one("subnetwork:Subnetwork").inputs
    found = [subnet["ipCidrRange"], *(each["ipCidrRange"] for each in subnet["secondaryIpRanges"])]
    assert found == ranges
    networks = [ipaddress.IPv4Network(each) for each in found]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(networks, 2))
    assert all(each.subnet_of(ipaddress.IPv4Network(cidr)) for each in networks)


def test_destroy_deletes_releases_then_guard_then_nodes_then_network() -> None:
    done = gke({"host": "r.example.org", "sharedGiB": 1024})
    network = done.one("network:Network")
    subnet = done.one("subnetwork:Subnetwork")
    cluster = done.one("container/cluster:Cluster")
    pools = done.all("nodePool:NodePool")
    wait = done.one("DestroyGuard")
    claims = [*done.all("v3:Release"), *done.all("core/v1:Namespace"), *done.all("PersistentVolumeClaim")]
    assert len(claims) >= 5
    for claim in claims:
        assert done.goes_before(claim, wait), f"{claim.name} could outlive the wait for its disks and load balancers"
    for pool in pools:
        assert done.goes_before(wait, pool), "nodes could go while disks are still attached to them"
        assert done.goes_before(pool, cluster)
    assert done.goes_before(wait, done.one("routerNat:RouterNat"))
    assert done.goes_before(cluster, subnet)
    assert done.goes_before(subnet, network)
    for other in done.all("", ""):
        apart = ("address:Address", "disk:Disk")
        if other.type.startswith("gcp:compute/") and other is not network and not other.type.endswith(apart):
            assert done.goes_before(other, network), f"{other.name} would hold the network"


def test_nodes_reach_the_internet_through_cloud_nat() -> None:
    nat = gke().one("routerNat:RouterNat").inputs
    router = gke().one("router:Router")
    assert (nat["router"], nat["region"]) == (f"{router.name}-0a1b2c3", "us-west1")
    assert (router.inputs["network"], router.inputs["region"]) == ("future-team-network-id", "us-west1")
    assert nat["natIpAllocateOption"] == "AUTO_ONLY", "there is no address that it could be given"
    assert nat["sourceSubnetworkIpRangesToNat"] == "LIST_OF_SUBNETWORKS"
    assert nat["subnetworks"] == [{"name": "future-team-nodes-id", "sourceIpRangesToNats": ["ALL_IP_RANGES"]}]


def test_node_may_open_thousands_of_connections_to_one_address() -> None:
    nat = gke().one("routerNat:RouterNat").inputs
    assert nat["enableDynamicPortAllocation"] is True
    assert (nat["minPortsPerVm"], nat["maxPortsPerVm"]) == (64, 8192), "64 is all that a node has by default"
    assert nat["enableEndpointIndependentMapping"] is False, "Cloud NAT refuses both together"


def test_kubeconfig_gets_credentials_from_the_plugin() -> None:
    user = json.loads(gke().outputs["kubeconfig"][0])["users"][0]["user"]
    assert user["exec"]["provideClusterInfo"] is True, "the plugin refuses without"


def test_control_plane_accepts_no_legacy_authentication() -> None:
    cluster = gke().one("cluster:Cluster").inputs
    assert cluster["masterAuthorizedNetworksConfig"]["gcpPublicCidrsAccessEnabled"] is False, "any customer of Google's"
    assert cluster["enableShieldedNodes"] is True
    assert cluster["enableLegacyAbac"] is False
    assert cluster["masterAuth"]["clientCertificateConfig"] == {"issueClientCertificate": False}
    for pool in gke().all("nodePool:NodePool"):
        assert pool.inputs["nodeConfig"]["metadata"]["disable-legacy-endpoints"] == "true"
        assert pool.inputs["nodeConfig"]["kubeletConfig"]["insecureKubeletReadonlyPortEnabled"] == "FALSE"


def test_kernel_ends_one_process_and_not_its_container() -> None:
    pools = gke({"spot": "fallback"}).all("nodePool:NodePool")
    assert pools
    for pool in pools:
        assert pool.inputs["nodeConfig"]["kubeletConfig"]["singleProcessOomKill"] is True


def test_firewall_opens_only_ssh_through_identity_aware_proxy() -> None:
    rules = [rule.inputs for rule in gke().all("firewall:Firewall")]
    assert [(rule["sourceRanges"], rule["allows"]) for rule in rules] == [
        (["35.235.240.0/20"], [{"protocol": "tcp", "ports": ["22"]}])
    ]


def test_every_labelable_resource_carries_the_stacks_and_users_labels() -> None:
    import pulumi_gcp

    done = gke({"labels": "team=statistics,course=243", "sharedGiB": 1024})
    wanted = {"app": "future-kubernetes", "stack": "team", "team": "statistics", "course": "243"}
    seen = 0
    for resource in done.resources:
        key = labelled(resource, {"gcp": pulumi_gcp}, ("labels", "resource_labels"))
        if key:
            sent = resource.inputs["labels" if key == "labels" else "resourceLabels"]
            assert {name: sent.get(name) for name in wanted} == wanted, resource.name
            seen += 1
    for pool in done.all("nodePool:NodePool"):
        assert wanted.items() <= pool.inputs["nodeConfig"]["resourceLabels"].items()
    disks = dict(pair.split("=") for pair in done.one("StorageClass").inputs["parameters"]["labels"].split(","))
    assert wanted.items() <= disks.items()
    provider = next(entry for entry in done.all("pulumi:providers:gcp") if entry.name.endswith("-google"))
    assert json.loads(provider.inputs["defaultLabels"]) == disks
    assert seen >= 3


def test_registry_deletes_old_images_and_keeps_recent_ones() -> None:
    policies = gke().one("repository:Repository").inputs["cleanupPolicies"]
    assert {policy["action"] for policy in policies} == {"KEEP", "DELETE"}


def test_names_of_a_long_stack_stay_within_googles_limits() -> None:
    done = run({**stack_config("gke-team")}, ANSWERS, computed, stack_name="a-team-with-a-very-long-name0")
    drawn = len("-0a1b2c3")
    limits = {"container/cluster:Cluster": 40, "nodePool:NodePool": 40}
    for resource in done.resources:
        if resource.type.startswith("gcp:"):
            limit = next((bound for type_, bound in limits.items() if resource.type.endswith(type_)), 63)
            assert len(resource.name) + drawn <= limit or "Member" in resource.type or "Account" in resource.type
    assert 6 <= len(done.one("account:Account").inputs["accountId"]) <= 30
    assert len(done.one("repository:Repository").inputs["repositoryId"]) <= 63


def test_names_not_generated_by_pulumi_differ_between_equal_stacks() -> None:
    def drawn_otherwise(type_: str, name: str, inputs: dict[str, Any]) -> dict[str, Any]:
        return {**computed(type_, name, inputs), "name": f"{name}-fedcba9"}

    one, two = team(), run(stack_config("gke-team"), ANSWERS, drawn_otherwise, stack_name="gke-team")
    for type_, key in (("account:Account", "accountId"), ("repository:Repository", "repositoryId")):
        assert one.one(type_).inputs[key] != two.one(type_).inputs[key]
    given = {"network": "campus", "subnets": "lab"}
    same = [gke(given, stack_name=name).one("account:Account").inputs["accountId"] for name in ("one", "one", "two")]
    assert same[0] == same[1], "a name that changes would replace what has it"
    assert same[0].rsplit("-", 1)[1] != same[2].rsplit("-", 1)[1]


def test_outputs_give_the_commands_to_connect() -> None:
    told = {name: value for name, (value, _secret) in team().outputs.items()}
    assert told["kubeconfigCommand"] == (
        "gcloud container clusters get-credentials future-gke-team-0a1b2c3 --location us-west1 --project my-project"
        " --dns-endpoint"
    )
    assert "--context gke_my-project_us-west1_future-gke-team-0a1b2c3" in told["portForward"]
    assert told["nodeShell"].startswith("gcloud compute ssh")
    assert "--tunnel-through-iap" in told["nodeShell"]
    assert told["nodes"].startswith("3 x e2-standard-4, 4 workers each")
    assert "spot, else on demand, autoscaled 0 to 10" in told["nodes"]


def test_compute_inputs_are_those_of_googles_sdk() -> None:
    import inspect

    import pulumi_gcp

    for resource in gke().resources:
        if not resource.type.startswith("gcp:compute/"):
            continue
        args = getattr(pulumi_gcp.compute, f"{resource.type.split(':')[-1]}Args")
        known = set(inspect.signature(args.__init__).parameters)
        sent = {re.sub(r"(?<!^)(?=[A-Z])", "_", key).lower() for key in resource.inputs}
        assert sent <= known, resource.type
        required = {
            name
            for name, parameter in inspect.signature(args.__init__).parameters.items()
            if parameter.default is inspect.Parameter.empty and name != "__self__"
        }
        assert required <= sent, resource.type
