"""Policy rules for previews, each a plain function of a resource's type and inputs.

The rules repeat the promises of `components/` without sharing code, on purpose: they catch a change there, and a
resource that a later change adds. Pulumi skips a rule, with a message, for a value that is unknown during a preview.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

WORLD = ("0.0.0.0/0", "::/0")
MAX_NODES = 200
"""Largest size of a node pool. A larger one is more likely a slip than intended; raise the limit if it is."""

Check = Callable[[str, Mapping[str, Any]], Iterator[str]]


@dataclass(frozen=True)
class Rule:
    """One rule. mandatory: a violation stops the update. check: yields each violation of a resource, in words."""

    name: str
    description: str
    check: Check
    mandatory: bool = True


def each(value: Any) -> list[Any]:
    """`value` as a list. It may be a list, a single item or None."""
    return list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]


def no_public_nodes(type_: str, props: Mapping[str, Any]) -> Iterator[str]:
    """Nodes have only private addresses."""
    if type_ == "gcp:container/cluster:Cluster" and not (props.get("privateClusterConfig") or {}).get(
        "enablePrivateNodes"
    ):
        yield "the cluster's nodes have public addresses (privateClusterConfig.enablePrivateNodes)"
    if (
        type_ == "gcp:container/nodePool:NodePool"
        and (props.get("networkConfig") or {}).get("enablePrivateNodes") is False
    ):
        yield "the pool's nodes have public addresses (networkConfig.enablePrivateNodes)"
    if type_ == "aws:ec2/subnet:Subnet" and props.get("mapPublicIpOnLaunch"):
        yield "machines in this subnet get public addresses (mapPublicIpOnLaunch)"
    if type_ == "aws:ec2/launchTemplate:LaunchTemplate":
        for interface in each(props.get("networkInterfaces")):
            if str(interface.get("associatePublicIpAddress", "false")).lower() == "true":
                yield "nodes get public addresses (networkInterfaces.associatePublicIpAddress)"


def no_open_firewall(type_: str, props: Mapping[str, Any]) -> Iterator[str]:
    """No firewall rule of the stack admits the whole internet."""
    if (
        type_ == "gcp:compute/firewall:Firewall"
        and props.get("direction", "INGRESS") == "INGRESS"
        and props.get("allows")
    ) and set(each(props.get("sourceRanges"))) & set(WORLD):
        yield "the firewall admits every address (sourceRanges)"
    if type_ == "aws:ec2/securityGroup:SecurityGroup":
        for rule in each(props.get("ingress")):
            if set(each(rule.get("cidrBlocks")) + each(rule.get("ipv6CidrBlocks"))) & set(WORLD):
                yield "the security group admits every address (ingress)"
    sources = {props.get("cidrIpv4"), props.get("cidrIpv6")} & set(WORLD)
    if type_ == "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule" and sources:
        yield "the rule admits every address (cidrIpv4, cidrIpv6)"


def closed_control_plane(type_: str, props: Mapping[str, Any]) -> Iterator[str]:
    """The Kubernetes API is restricted to chosen networks."""
    fix = "pulumi config set authorizedNetworks 203.0.113.0/24"
    if type_ == "gcp:container/cluster:Cluster":
        addresses = (props.get("controlPlaneEndpointsConfig") or {}).get("ipEndpointsConfig") or {}
        blocks = each((props.get("masterAuthorizedNetworksConfig") or {}).get("cidrBlocks"))
        if addresses.get("enabled") is False:  # only by the DNS name, at which IAM decides
            return
        if not blocks or any(block.get("cidrBlock") in WORLD for block in blocks):
            yield f"the Kubernetes API answers the whole internet; {fix}"
    if type_ == "aws:eks/cluster:Cluster":
        config = props.get("vpcConfig") or {}
        cidrs = each(config.get("publicAccessCidrs"))
        if config.get("endpointPublicAccess", True) and (not cidrs or set(cidrs) & set(WORLD)):
            yield f"the Kubernetes API answers the whole internet; {fix}"


def guarded_metadata(type_: str, props: Mapping[str, Any]) -> Iterator[str]:
    """Pods cannot use the credentials of their node."""
    if type_ == "aws:ec2/launchTemplate:LaunchTemplate":
        options = props.get("metadataOptions") or {}
        if options.get("httpTokens") != "required" or int(options.get("httpPutResponseHopLimit", 2)) > 1:
            yield "pods can reach the node's credentials (metadataOptions: httpTokens required, hop limit 1)"
    if type_ == "gcp:container/nodePool:NodePool":
        config = props.get("nodeConfig") or {}
        if (config.get("workloadMetadataConfig") or {}).get("mode") != "GKE_METADATA":
            yield "pods can reach the node's credentials (workloadMetadataConfig.mode: GKE_METADATA)"


def encrypted_disks(type_: str, props: Mapping[str, Any]) -> Iterator[str]:
    """Disks and file systems on AWS are encrypted. On Google Cloud they always are."""
    if type_ == "aws:ec2/launchTemplate:LaunchTemplate":
        for mapping in each(props.get("blockDeviceMappings")):
            if str((mapping.get("ebs") or {}).get("encrypted", "false")).lower() != "true":
                yield "a node's disk is not encrypted (blockDeviceMappings.ebs.encrypted)"
    if type_ == "aws:efs/fileSystem:FileSystem" and not props.get("encrypted"):
        yield "the file system is not encrypted (encrypted)"
    if type_ == "aws:ebs/volume:Volume" and not props.get("encrypted"):
        yield "the home's disk is not encrypted (encrypted)"
    on_aws = type_ == "kubernetes:storage.k8s.io/v1:StorageClass" and props.get("provisioner") == "ebs.csi.aws.com"
    if on_aws and str((props.get("parameters") or {}).get("encrypted", "false")).lower() != "true":
        yield "volumes are not encrypted (parameters.encrypted)"


BROAD_ROLES = ("roles/owner", "roles/editor")
BROAD_POLICIES = ("AdministratorAccess", "PowerUserAccess", "IAMFullAccess")


def least_privilege(type_: str, props: Mapping[str, Any]) -> Iterator[str]:
    """No part of the cluster has the permissions of an administrator."""
    role = str(props.get("role", ""))
    if type_.startswith("gcp:") and "iam" in type_.lower() and (role in BROAD_ROLES or role.lower().endswith("admin")):
        yield f"{role} is more than any part of the cluster needs"
    if type_ == "aws:iam/rolePolicyAttachment:RolePolicyAttachment":
        arn = str(props.get("policyArn", ""))
        if arn.rsplit("/", 1)[-1] in BROAD_POLICIES or arn.endswith("FullAccess"):
            yield f"{arn} is more than any part of the cluster needs"


BUCKET_ROLES = ("roles/storage.objectViewer", "roles/storage.objectUser")
BUCKET_MEMBER = re.compile(
    r"principal://iam\.googleapis\.com/projects/[0-9]+/locations/global/workloadIdentityPools/[^/*]+"
    r"/subject/ns/[^/*]+/sa/[^/*]+"
)
"""One service account of Kubernetes. A `principalSet` is a whole cluster or namespace."""
BUCKET_ACTIONS = {
    "s3:ListBucket",
    "s3:GetBucketLocation",
    "s3:GetObject",
    "s3:PutObject",
    "s3:DeleteObject",
    "s3:AbortMultipartUpload",
}
BUCKET_ARN = re.compile(r"arn:aws[a-z-]*:s3:::[a-z0-9][a-z0-9.-]*(/[*])?")


def narrow_buckets(type_: str, props: Mapping[str, Any]) -> Iterator[str]:
    """Data in buckets is granted to single service accounts, by the bucket, and without rights on the bucket itself."""
    role, member = str(props.get("role", "")), str(props.get("member", ""))
    if type_ == "gcp:storage/bucketIAMMember:BucketIAMMember":
        if role not in BUCKET_ROLES:
            yield f"{role} on a bucket is none of {', '.join(BUCKET_ROLES)}"
        if not BUCKET_MEMBER.fullmatch(member):
            yield f"the bucket is granted to {member}, which is more than one service account of Kubernetes"
    elif type_.startswith("gcp:storage/") and re.search(r"iam|acl|accesscontrol", type_, re.IGNORECASE):
        yield f"{type_.split(':')[-1]} replaces or widens all grants of a bucket; use BucketIAMMember"
    elif type_.startswith("gcp:") and role.startswith("roles/storage."):
        yield f"{role} holds for every bucket of the project"
    if type_ == "aws:iam/rolePolicyAttachment:RolePolicyAttachment" and "/AmazonS3" in str(props.get("policyArn", "")):
        yield f"{props['policyArn']} holds for every bucket of the account"
    if type_ in ("aws:iam/rolePolicy:RolePolicy", "aws:iam/policy:Policy"):
        yield from wide_statements(str(props.get("policy", "")))
    if type_ == "aws:eks/podIdentityAssociation:PodIdentityAssociation" and props.get("disableSessionTags"):
        yield "without session tags the role's trust cannot tell which pods ask (disableSessionTags)"


def wide_statements(policy: str) -> Iterator[str]:
    """Statements of a policy document that allow more in S3 than reading and writing objects of named buckets."""
    for statement in each(json.loads(policy).get("Statement")) if policy.startswith("{") else ():
        actions = [str(action) for action in each(statement.get("Action"))]
        of_storage = [action for action in actions if action == "*" or action.lower().startswith("s3:")]
        if statement.get("Effect") != "Allow" or not (of_storage or "NotAction" in statement):
            continue
        if "NotAction" in statement or set(of_storage) - BUCKET_ACTIONS:
            shown = sorted(set(of_storage) - BUCKET_ACTIONS) or ["everything but NotAction"]
            yield f"the policy allows {', '.join(shown)}, more than reading and writing objects"
        wide = [str(arn) for arn in each(statement.get("Resource")) if not BUCKET_ARN.fullmatch(str(arn))]
        if wide or "NotResource" in statement:
            yield f"the policy holds for {', '.join(wide) or 'all but NotResource'}, which is no single bucket"


def bounded_pools(type_: str, props: Mapping[str, Any]) -> Iterator[str]:
    """Node pools stay within `MAX_NODES`, so that a slip in maxWorkers is noticed before it is billed."""
    largest = 0
    if type_ == "gcp:container/nodePool:NodePool":
        scaling = props.get("autoscaling") or {}
        largest = max(int(scaling.get("totalMaxNodeCount") or 0), int(props.get("nodeCount") or 0))
    if type_ == "aws:eks/nodeGroup:NodeGroup":
        largest = int((props.get("scalingConfig") or {}).get("maxSize") or 0)
    if largest > MAX_NODES:
        yield f"the pool may grow to {largest} nodes; if intended, raise MAX_NODES ({MAX_NODES}) in policy/rules.py"


def pinned_image(type_: str, props: Mapping[str, Any]) -> Iterator[str]:
    """The release's image is pinned to a digest."""
    values = props.get("values")
    image = values.get("image") if isinstance(values, Mapping) else None
    own_chart = type_ == "kubernetes:helm.sh/v3:Release" and "worker" in (values or {})
    if own_chart and isinstance(image, str) and image and "@sha256:" not in image:
        yield f"the image {image} is not pinned to a digest"


def pinned_base(type_: str, props: Mapping[str, Any]) -> Iterator[str]:
    """A chosen base of the image has a digest. Its tag can move, and the next build would have another R."""
    base = (props.get("buildArgs") or {}).get("BASE_IMAGE") if type_ == "docker-build:index:Image" else None
    if isinstance(base, str) and not re.search(r"@sha256:[0-9a-f]{64}$", base):
        shown = base.split("@")[0]
        yield f"the base image {base} is not pinned: docker buildx imagetools inspect {shown} prints its digest"


def labelled_for_cost(type_: str, props: Mapping[str, Any]) -> Iterator[str]:
    """Billed resources carry the labels by which a cost report finds them."""
    places = {
        "gcp:container/cluster:Cluster": ("resourceLabels",),
        "gcp:filestore/instance:Instance": ("labels",),
        "gcp:artifactregistry/repository:Repository": ("labels",),
        "gcp:container/nodePool:NodePool": ("nodeConfig", "resourceLabels"),
    }
    if type_ in places:
        found: Any = props
        for key in places[type_]:
            found = (found or {}).get(key)
        if not {"app", "stack"} <= set(found or {}):
            yield f"the labels app and stack are missing ({'.'.join(places[type_])})"
    if type_ == "aws:ec2/launchTemplate:LaunchTemplate":
        for entry in each(props.get("tagSpecifications")):
            if not {"app", "stack"} <= set(entry.get("tags") or {}):
                yield f"the tags app and stack are missing on each {entry.get('resourceType')} (tagSpecifications)"


RULES = (
    Rule("no-public-nodes", "Nodes have only private addresses.", no_public_nodes),
    Rule("no-open-firewall", "No firewall rule admits the whole internet.", no_open_firewall),
    Rule(
        "closed-control-plane",
        "The Kubernetes API is restricted to chosen networks.",
        closed_control_plane,
        mandatory=False,
    ),
    Rule("guarded-metadata", "Pods cannot use the credentials of their node.", guarded_metadata),
    Rule("encrypted-disks", "Disks and file systems are encrypted.", encrypted_disks),
    Rule("least-privilege", "No part of the cluster has the permissions of an administrator.", least_privilege),
    Rule("narrow-buckets", "Buckets are granted one by one, to single service accounts.", narrow_buckets),
    Rule("bounded-pools", f"No node pool may grow beyond {MAX_NODES} nodes.", bounded_pools),
    Rule("pinned-image", "The image is pinned to a digest.", pinned_image),
    Rule("pinned-base", "A chosen base of the image is pinned to a digest.", pinned_base, mandatory=False),
    Rule("labelled-for-cost", "Billed resources carry the stack's labels.", labelled_for_cost),
)


def complaints(type_: str, props: Mapping[str, Any]) -> list[tuple[Rule, str]]:
    """Every rule that a resource violates, with the reason."""
    return [(rule, reason) for rule in RULES for reason in rule.check(type_, props)]
