"""The policy pack: example stacks violate no rule, and each rule catches its violation."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.unit import aws_cloud, google_cloud
from tests.unit.cloud_mocks import ROOT, Recording


def load(name: str) -> ModuleType:
    """A module of the policy pack, which is a program of its own and no package of this one."""
    spec = importlib.util.spec_from_file_location(f"policy_{name}", ROOT / "policy" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


rules = load("rules")

POOL = "gcp:container/nodePool:NodePool"
GKE = "gcp:container/cluster:Cluster"
EKS = "aws:eks/cluster:Cluster"
TEMPLATE = "aws:ec2/launchTemplate:LaunchTemplate"
IMAGE = "docker-build:index:Image"
RELEASE = "kubernetes:helm.sh/v3:Release"


BUCKET = "gcp:storage/bucketIAMMember:BucketIAMMember"
POOL_OF_IDENTITIES = "iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p.svc.id.goog"
WORKER = f"principal://{POOL_OF_IDENTITIES}/subject/ns/n/sa/worker"
READ = "roles/storage.objectViewer"
ROLE_POLICY = "aws:iam/rolePolicy:RolePolicy"


def allowing(**statement: Any) -> dict[str, Any]:
    """A policy document with one statement, by default one that is narrow enough."""
    narrow = {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": ["arn:aws:s3:::team-data/*"]}
    return {"policy": json.dumps({"Version": "2012-10-17", "Statement": [{**narrow, **statement}]})}


@pytest.fixture(autouse=True)
def _tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/nowhere/bin/{name}")


def broken(done: Recording) -> list[tuple[str, str, str]]:
    return [
        (resource.name, rule.name, reason)
        for resource in done.resources
        for rule, reason in rules.complaints(resource.type, resource.inputs)
    ]


def test_example_stacks_violate_no_rule() -> None:
    assert broken(google_cloud.team()) == []
    assert broken(aws_cloud.team()) == []


def test_stacks_with_every_option_violate_no_rule() -> None:
    more = {"host": "r.example.org", "maxWorkers": 40}
    types = {"spot": "fallback", "otherMachineTypes": "n4-standard-4,c3-standard-4"}
    assert broken(google_cloud.gke({**more, **types, "sharedGiB": 1024})) == []
    assert broken(aws_cloud.eks({**more, "sharedGiB": 10, "natPerZone": True})) == []


def test_base_image_with_a_digest_violates_no_rule() -> None:
    digest = f"rocker/rstudio:4.6.1@sha256:{'1' * 64}"
    for clouds_program in (google_cloud.gke, aws_cloud.eks):
        done = clouds_program({"baseImage": digest})
        assert done.one("docker-build:index:Image").inputs["buildArgs"]["BASE_IMAGE"] == digest
        assert broken(done) == []
        (found,) = broken(clouds_program({"baseImage": "rocker/rstudio:4.6.1"}))
        assert found[1] == "pinned-base"
        assert found[2].endswith("docker buildx imagetools inspect rocker/rstudio:4.6.1 prints its digest")


def test_buckets_of_the_settings_violate_no_rule() -> None:
    assert broken(google_cloud.gke({"buckets": "gs://team-data,gs://results:rw"})) == []
    assert broken(aws_cloud.eks({"buckets": "s3://team-data,s3://results:rw"})) == []


def test_control_plane_reached_only_by_name_is_closed() -> None:
    assert broken(google_cloud.gke({"authorizedNetworks": ""})) == []


def test_open_control_plane_is_advised_against() -> None:
    stated = {"authorizedNetworks": "0.0.0.0/0"}
    for done in (google_cloud.gke(stated), aws_cloud.eks(stated)):
        assert {rule for _, rule, _ in broken(done)} == {"closed-control-plane"}
    level = {rule.name: rule.mandatory for rule in rules.RULES}
    assert level.pop("closed-control-plane") is False
    assert level.pop("pinned-base") is False
    assert all(level.values())


@pytest.mark.parametrize(
    ("type_", "props", "rule"),
    [
        (GKE, {"privateClusterConfig": {"enablePrivateNodes": False}}, "no-public-nodes"),
        (POOL, {"networkConfig": {"enablePrivateNodes": False}}, "no-public-nodes"),
        ("aws:ec2/subnet:Subnet", {"mapPublicIpOnLaunch": True}, "no-public-nodes"),
        (TEMPLATE, {"networkInterfaces": [{"associatePublicIpAddress": "true"}]}, "no-public-nodes"),
        ("gcp:compute/firewall:Firewall", {"allows": [{}], "sourceRanges": ["0.0.0.0/0"]}, "no-open-firewall"),
        ("aws:ec2/securityGroup:SecurityGroup", {"ingress": [{"cidrBlocks": ["0.0.0.0/0"]}]}, "no-open-firewall"),
        ("aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule", {"cidrIpv6": "::/0"}, "no-open-firewall"),
        (EKS, {"vpcConfig": {"publicAccessCidrs": ["0.0.0.0/0"]}}, "closed-control-plane"),
        (TEMPLATE, {"metadataOptions": {"httpTokens": "optional", "httpPutResponseHopLimit": 1}}, "guarded-metadata"),
        (TEMPLATE, {"metadataOptions": {"httpTokens": "required", "httpPutResponseHopLimit": 2}}, "guarded-metadata"),
        (POOL, {"nodeConfig": {"workloadMetadataConfig": {"mode": "GCE_METADATA"}}}, "guarded-metadata"),
        (TEMPLATE, {"blockDeviceMappings": [{"ebs": {"volumeSize": 50}}]}, "encrypted-disks"),
        ("aws:efs/fileSystem:FileSystem", {}, "encrypted-disks"),
        ("aws:ebs/volume:Volume", {"size": 10}, "encrypted-disks"),
        ("kubernetes:storage.k8s.io/v1:StorageClass", {"provisioner": "ebs.csi.aws.com"}, "encrypted-disks"),
        ("gcp:projects/iAMMember:IAMMember", {"role": "roles/editor"}, "least-privilege"),
        ("gcp:projects/iAMMember:IAMMember", {"role": "roles/storage.admin"}, "least-privilege"),
        (
            "aws:iam/rolePolicyAttachment:RolePolicyAttachment",
            {"policyArn": "arn:aws:iam::aws:policy/AmazonS3FullAccess"},
            "least-privilege",
        ),
        (
            "aws:iam/rolePolicyAttachment:RolePolicyAttachment",
            {"policyArn": "arn:aws:iam::aws:policy/AdministratorAccess"},
            "least-privilege",
        ),
        (BUCKET, {"role": "roles/storage.objectAdmin", "member": WORKER}, "narrow-buckets"),
        (BUCKET, {"role": "roles/storage.legacyBucketOwner", "member": WORKER}, "narrow-buckets"),
        (BUCKET, {"role": READ, "member": "allUsers"}, "narrow-buckets"),
        (BUCKET, {"role": READ, "member": "allAuthenticatedUsers"}, "narrow-buckets"),
        (BUCKET, {"role": READ, "member": f"principalSet://{POOL_OF_IDENTITIES}/namespace/n"}, "narrow-buckets"),
        (BUCKET, {"role": READ, "member": WORKER.replace("worker", "*")}, "narrow-buckets"),
        ("gcp:storage/bucketIAMBinding:BucketIAMBinding", {"role": READ, "members": [WORKER]}, "narrow-buckets"),
        ("gcp:storage/bucketACL:BucketACL", {}, "narrow-buckets"),
        ("gcp:projects/iAMMember:IAMMember", {"role": READ, "member": WORKER}, "narrow-buckets"),
        (
            "aws:iam/rolePolicyAttachment:RolePolicyAttachment",
            {"policyArn": "arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess"},
            "narrow-buckets",
        ),
        (ROLE_POLICY, allowing(Action="s3:*"), "narrow-buckets"),
        (ROLE_POLICY, allowing(Action="*"), "narrow-buckets"),
        (ROLE_POLICY, allowing(Action=["s3:GetObject", "s3:PutBucketPolicy"]), "narrow-buckets"),
        (ROLE_POLICY, allowing(Resource="*"), "narrow-buckets"),
        (ROLE_POLICY, allowing(Resource="arn:aws:s3:::team-*/*"), "narrow-buckets"),
        (ROLE_POLICY, allowing(Action=None, NotAction="iam:*"), "narrow-buckets"),
        (ROLE_POLICY, allowing(Resource=None, NotResource="arn:aws:s3:::a"), "narrow-buckets"),
        ("aws:iam/policy:Policy", allowing(Resource="*"), "narrow-buckets"),
        (
            "aws:eks/podIdentityAssociation:PodIdentityAssociation",
            {"disableSessionTags": True},
            "narrow-buckets",
        ),
        (POOL, {"autoscaling": {"totalMaxNodeCount": 4000}}, "bounded-pools"),
        (POOL, {"nodeCount": 201}, "bounded-pools"),
        ("aws:eks/nodeGroup:NodeGroup", {"scalingConfig": {"maxSize": 201}}, "bounded-pools"),
        (RELEASE, {"values": {"image": "ghcr.io/o/i:latest", "worker": {}}}, "pinned-image"),
        (IMAGE, {"buildArgs": {"BASE_IMAGE": "rocker/rstudio:4.6.1"}}, "pinned-base"),
        (IMAGE, {"buildArgs": {"BASE_IMAGE": f"rocker/rstudio@sha256:{'1' * 63}"}}, "pinned-base"),
        (IMAGE, {"buildArgs": {"BASE_IMAGE": f"rocker/rstudio@sha256:{'1' * 65}"}}, "pinned-base"),
        (GKE, {"resourceLabels": {"app": "x"}}, "labelled-for-cost"),
        (POOL, {"nodeConfig": {}}, "labelled-for-cost"),
        (TEMPLATE, {"tagSpecifications": [{"resourceType": "volume", "tags": {}}]}, "labelled-for-cost"),
    ],
)
def test_rule_catches_its_violation(type_: str, props: dict[str, Any], rule: str) -> None:
    assert rule in {found.name for found, _ in rules.complaints(type_, props)}


def test_narrow_grants_on_buckets_are_no_violation() -> None:
    assert rules.complaints(BUCKET, {"role": READ, "member": WORKER}) == []
    assert rules.complaints(ROLE_POLICY, allowing()) == []
    assert rules.complaints(ROLE_POLICY, allowing(Action="ec2:Describe*", Resource="*")) == []
    assert rules.complaints(ROLE_POLICY, allowing(Effect="Deny", Action="s3:*", Resource="*")) == []


def test_open_egress_is_not_open_ingress() -> None:
    egress = {"direction": "EGRESS", "allows": [{}], "sourceRanges": ["0.0.0.0/0"]}
    assert rules.complaints("gcp:compute/firewall:Firewall", egress) == []


def test_pack_passes_every_rule_to_pulumi_with_its_level(monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, Any] = {}
    stand_in = ModuleType("pulumi_policy")
    stand_in.__dict__.update(
        EnforcementLevel=SimpleNamespace(MANDATORY="mandatory", ADVISORY="advisory"),
        PolicyPack=lambda name, policies: made.update({policy.name: policy for policy in policies}),
        ReportViolation=Any,
        ResourceValidationArgs=Any,
        ResourceValidationPolicy=lambda **given: SimpleNamespace(**given),
    )
    monkeypatch.setitem(sys.modules, "pulumi_policy", stand_in)
    monkeypatch.setitem(sys.modules, "rules", rules)
    load("__main__")
    assert set(made) == {rule.name for rule in rules.RULES}
    assert made["closed-control-plane"].enforcement_level == "advisory"
    assert made["pinned-base"].enforcement_level == "advisory"
    said: list[str] = []
    made["bounded-pools"].validate(SimpleNamespace(resource_type=POOL, props={"nodeCount": 999}), said.append)
    assert "999 nodes" in said[0]
