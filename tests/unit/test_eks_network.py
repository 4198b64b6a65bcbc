"""EKS under mocks: network, zones, and the load balancer."""

from __future__ import annotations

import ipaddress
import itertools

import pytest

from tests.unit.aws_cloud import (
    eks,
    release_of,
)

pytestmark = pytest.mark.usefixtures("installed_tools")

BALANCER = "service.beta.kubernetes.io/aws-load-balancer"


def test_workers_machine_type_moves_neither_network_nor_scheduler() -> None:
    for type_ in ("ec2/subnet:Subnet", "ec2/natGateway:NatGateway"):
        names = [[entry.name for entry in done.all(type_)] for done in (eks(), eks({"machineType": "m7i.xlarge"}))]
        assert names[0] == names[1]
    moved = eks({"machineType": "m7i.xlarge"})
    assert moved.one("nodeGroup:NodeGroup", "system").inputs["subnetIds"] == ["future-team-private-us-west-2a-id"]
    assert moved.one("nodeGroup:NodeGroup", "workers").inputs["subnetIds"] == ["future-team-private-us-west-2b-id"]


def test_system_node_takes_the_first_zone_offering_its_machine() -> None:
    for group in eks({"systemMachineType": "m7i.xlarge"}).all("nodeGroup:NodeGroup"):
        assert group.inputs["subnetIds"] == ["future-team-private-us-west-2b-id"]


def test_one_nat_serves_all_zones_unless_nat_per_zone() -> None:
    assert len(eks().all("natGateway:NatGateway")) == 1
    each = eks({"natPerZone": True})
    assert len(each.all("natGateway:NatGateway")) == 3
    private = each.all("routeTable:RouteTable", "private")
    assert len({entry.inputs["routes"][0]["natGatewayId"] for entry in private}) == 3


def test_private_subnets_reach_the_internet_only_through_nat() -> None:
    done = eks()
    private = done.one("routeTable:RouteTable", "private")
    assert private.inputs["routes"] == [{"cidrBlock": "0.0.0.0/0", "natGatewayId": done.one("NatGateway").name + "-id"}]
    joined = [entry.inputs for entry in done.all("RouteTableAssociation", "private")]
    assert {entry["routeTableId"] for entry in joined} == {f"{private.name}-id"}
    assert len(joined) == len(done.all("ec2/subnet:Subnet", "private")) == 3


def test_public_subnets_route_to_the_internet_and_hold_nat_gateways() -> None:
    done = eks({"natPerZone": True})
    internet = done.one("InternetGateway")
    table = done.one("routeTable:RouteTable", "public")
    assert table.inputs["routes"] == [{"cidrBlock": "0.0.0.0/0", "gatewayId": f"{internet.name}-id"}]
    public = done.all("ec2/subnet:Subnet", "public")
    joined = [entry.inputs for entry in done.all("RouteTableAssociation", "public")]
    assert {(entry["subnetId"], entry["routeTableId"]) for entry in joined} == {
        (f"{subnet.name}-id", f"{table.name}-id") for subnet in public
    }
    for subnet in public:
        gateway = done.one("natGateway:NatGateway", subnet.inputs["availabilityZone"])
        assert gateway.inputs["subnetId"] == f"{subnet.name}-id"
        assert subnet.inputs["tags"].get("kubernetes.io/role/elb") == "1", "where EKS puts a load balancer"
    for subnet in done.all("ec2/subnet:Subnet", "private"):
        assert "kubernetes.io/role/elb" not in subnet.inputs["tags"], "a load balancer there would not come up"


def test_subnets_lie_within_the_vpc_without_overlap() -> None:
    vpc = eks().one("ec2/vpc:Vpc").inputs
    assert (vpc["enableDnsSupport"], vpc["enableDnsHostnames"]) == (True, True), "or EFS has no name within"
    blocks = [ipaddress.IPv4Network(subnet.inputs["cidrBlock"]) for subnet in eks().all("ec2/subnet:Subnet")]
    assert all(block.subnet_of(ipaddress.IPv4Network(vpc["cidrBlock"])) for block in blocks)
    assert not any(one.overlaps(other) for one, other in itertools.combinations(blocks, 2))


def test_private_subnets_have_an_address_for_every_pod() -> None:
    private = eks().all("ec2/subnet:Subnet", "private")
    sizes = {ipaddress.IPv4Network(subnet.inputs["cidrBlock"]).num_addresses for subnet in private}
    assert sizes == {2**14}, "every pod takes an address of its node's subnet"


@pytest.mark.parametrize(("cidr", "private", "public"), [("10.20.0.0/16", 18, 24), ("100.64.16.0/20", 22, 28)])
def test_vpc_cidr_holds_all_subnets(cidr: str, private: int, public: int) -> None:
    done = eks({"vpcCidr": cidr})
    assert done.one("ec2/vpc:Vpc").inputs["cidrBlock"] == cidr
    blocks = {
        subnet.name: ipaddress.IPv4Network(subnet.inputs["cidrBlock"]) for subnet in done.all("ec2/subnet:Subnet")
    }
    assert len(blocks) == 6
    assert all(block.subnet_of(ipaddress.IPv4Network(cidr)) for block in blocks.values())
    assert not any(one.overlaps(other) for one, other in itertools.combinations(blocks.values(), 2))
    assert {block.prefixlen for name, block in blocks.items() if "private" in name} == {private}
    assert {block.prefixlen for name, block in blocks.items() if "public" in name} == {public}, "AWS's least is 28"


@pytest.mark.parametrize("per_zone", [False, True])
def test_private_subnets_reach_s3_without_nat(per_zone: bool) -> None:
    """Layers of images are in S3, and NAT bills each GB."""
    done = eks({"natPerZone": per_zone})
    endpoint = done.one("ec2/vpcEndpoint:VpcEndpoint")
    assert endpoint.inputs["serviceName"] == "com.amazonaws.us-west-2.s3"
    assert endpoint.inputs["vpcEndpointType"] == "Gateway", "an interface is billed"
    assert endpoint.inputs["vpcId"] == f"{done.one('ec2/vpc:Vpc').name}-id"
    private = {f"{table.name}-id" for table in done.all("routeTable:RouteTable", "private")}
    assert set(endpoint.inputs["routeTableIds"]) == private
    assert len(private) == (3 if per_zone else 1)
    for group in done.all("nodeGroup:NodeGroup"):
        assert done.goes_before(group, endpoint), "nodes would pull images while the route changes"


def test_requested_fourth_zone_replaces_the_third() -> None:
    done = eks({"zone": "us-west-2d"})
    zones = [subnet.inputs["availabilityZone"] for subnet in done.all("ec2/subnet:Subnet", "private")]
    assert zones == ["us-west-2a", "us-west-2b", "us-west-2d"]
    for group in done.all("nodeGroup:NodeGroup"):
        assert group.inputs["subnetIds"] == ["future-team-private-us-west-2d-id"]


def test_zones_without_eks_are_excluded() -> None:
    (asked,) = [args for token, args, _ in eks({"zone": "us-west-2b"}).asked if "getAvailabilityZones" in token]
    assert {"use1-az3", "usw1-az2", "cac1-az3"} <= set(asked["excludeZoneIds"])
    assert asked["filters"] == [{"name": "opt-in-status", "values": ["opt-in-not-required"]}], "no local zones"
    assert asked["state"] == "available"


def test_load_balancer_uses_the_given_public_subnets() -> None:
    given = {"network": "vpc-campus", "subnets": "subnet-1,subnet-2", "host": "r.example.org"}
    done = eks({**given, "publicSubnets": "subnet-public,subnet-other"})
    annotations = done.one("v3:Release", "traefik").inputs["values"]["service"]["annotations"]
    addresses = done.all("ec2/eip:Eip")
    assert [address.inputs["domain"] for address in addresses] == ["vpc", "vpc"]
    assert annotations[f"{BALANCER}-subnets"] == "subnet-public,subnet-other"
    allocations = annotations[f"{BALANCER}-eip-allocations"].split(",")
    assert allocations == [f"{address.name}-id" for address in addresses], "EKS wants as many as there are subnets"
    assert done.outputs["hostAddress"][0] == "198.51.100.20 198.51.100.21"


@pytest.mark.parametrize(("machine_type", "where"), [("m6i.large", "us-west-2a"), ("m7i.xlarge", "us-west-2b")])
def test_load_balancer_of_new_network_is_in_system_nodes_zone(machine_type: str, where: str) -> None:
    done = eks({"host": "r.example.org", "systemMachineType": machine_type})
    (zone,) = {
        subnet.inputs["availabilityZone"]
        for subnet in done.all("ec2/subnet:Subnet")
        if f"{subnet.name}-id" in done.one("nodeGroup:NodeGroup", "system").inputs["subnetIds"]
    }
    annotations = done.one("v3:Release", "traefik").inputs["values"]["service"]["annotations"]
    assert zone == where
    assert annotations[f"{BALANCER}-subnets"] == f"future-team-public-{zone}-id", "it sends nothing to other zones"
    gateway = done.one("internetGateway:InternetGateway")
    assert done.goes_before(done.one("ec2/eip:Eip", "-public-"), gateway), "AWS keeps a gateway of public addresses"
    assert annotations[f"{BALANCER}-eip-allocations"] == done.one("ec2/eip:Eip", "-public-").name + "-id"


def test_load_balancer_exists_only_with_host() -> None:
    assert eks().all("v3:Release", "traefik") == []
    done = eks({"host": "r.example.org"})
    annotations = done.one("v3:Release", "traefik").inputs["values"]["service"]["annotations"]
    assert annotations[f"{BALANCER}-type"] == "nlb"
    public = done.all("ec2/subnet:Subnet", "public")
    assert len(public) >= 2
    assert all(subnet.inputs["tags"]["kubernetes.io/role/elb"] == "1" for subnet in public)
    assert not eks().all("ec2/eip:Eip", "-public-"), "an address that nothing uses is billed"
    assert done.outputs["hostAddress"][0] == "198.51.100.20"
    assert release_of(done)["ingress"]["className"] == "future-kubernetes"
    # An empty map would vanish in Traefik's chart, and with it the only way to a certificate.
    resolver = done.one("v3:Release", "traefik").inputs["values"]["certificatesResolvers"]["letsencrypt"]
    assert resolver["acme"]["tlsChallenge"] is True


def test_given_image_and_network_create_neither() -> None:
    done = eks({"image": "ghcr.io/o/i@sha256:" + "b" * 64, "network": "vpc-campus", "subnets": "subnet-1,subnet-2"})
    assert done.all("ecr/repository:Repository") == []
    made = {entry.type for entry in done.resources if entry.type.startswith("aws:ec2/")}
    assert made == {"aws:ec2/launchTemplate:LaunchTemplate"}
    assert done.one("eks/cluster:Cluster").inputs["vpcConfig"]["subnetIds"] == ["subnet-1", "subnet-2"]
    assert [group.inputs["subnetIds"] for group in done.all("nodeGroup:NodeGroup")] == [["subnet-1"], ["subnet-1"]]
