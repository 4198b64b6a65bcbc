"""AWS's own descriptions of its services, as botocore has them, against what the program sends and the page says.

Nothing here shares code with the program. No AWS is called: the descriptions are files of the package.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import botocore.session
import pytest
from botocore import xform_name
from botocore.model import OperationModel, ServiceModel, Shape
from botocore.validate import ParamValidator

from tests.unit.aws_cloud import eks, team
from tests.unit.cloud_mocks import ROOT, Recorded, Recording

pytestmark = pytest.mark.usefixtures("installed_tools")

SERVICES = {
    "elasticfilesystem": "efs",
    "elasticloadbalancing": "elbv2",
    "s3api": "s3",
    "servicequotas": "service-quotas",
    "tag": "resourcegroupstaggingapi",
}
"""Names of services in IAM actions and in the CLI, where they differ from the names of their descriptions."""

PERMISSION_ONLY = ("sts:TagSession", "iam:PassRole", "budgets:ViewBudget", "budgets:ModifyBudget")
"""Actions that no operation is named after."""

VARIATIONS: Mapping[str, dict[str, Any]] = {
    "least": {},
    "most": {"maxWorkers": 40, "sharedGiB": 10, "host": "r.example.org", "natPerZone": True, "nodeRelease": "latest"}
    | {"monthlyBudget": 500, "budgetEmail": "team@example.org", "keepHome": True, "homeSnapshotDays": 14},
    "spot": {"spot": True, "maxWorkers": 40, "kubernetesVersion": "1.34", "vpcCidr": "10.20.0.0/20"},
    "fallback": {"spot": "fallback"},
    "data": {"buckets": "s3://team-data,s3://results:rw"},
    "given": {"network": "vpc-campus", "subnets": "subnet-1,subnet-2", "auditLogDays": 0, "zone": "us-west-2a"},
}


@functools.cache
def service(name: str) -> ServiceModel:
    return botocore.session.get_session().get_service_model(SERVICES.get(name, name))


def operation(name: str, operation_name: str) -> OperationModel:
    return service(name).operation_model(operation_name)


def complaints(value: Any, shape: Shape) -> list[str]:
    """Breaches of types, required members, limits and choices; and members that the service does not know."""
    report = str(ParamValidator().validate(value, shape).generate_report())
    return [report] if report else list(choices(value, shape, ""))


def choices(value: Any, shape: Shape, where: str) -> Iterator[str]:
    """Values that are none of the choices or too long, and unknown members, of which botocore does not complain."""
    if shape.type_name == "structure":
        for key, entry in value.items():
            if key not in shape.members:
                yield f"{where}.{key} is unknown"
            else:
                yield from choices(entry, shape.members[key], f"{where}.{key}")
    elif shape.type_name == "list":
        for entry in value:
            yield from choices(entry, shape.member, f"{where}[]")
    elif shape.type_name == "map":
        for key, entry in value.items():
            yield from choices(key, shape.key, f"{where} key")
            yield from choices(entry, shape.value, f"{where}.{key}")
    elif shape.type_name == "string":
        longest = shape.metadata.get("max")
        if longest is not None and len(value) > longest:
            yield f"{where} is {value}, longer than {longest}"
        if shape.enum and value not in shape.enum:
            yield f"{where} is {value}, none of {shape.enum}"
        pattern = shape.metadata.get("pattern")
        # Some have Java's flags in their middle, and its class of all characters, which Python refuses.
        flags = "".join(re.findall(r"\(\?([a-z]+)\)", pattern or ""))
        pattern = f"(?{flags})" * bool(flags) + re.sub(r"\(\?[a-z]+\)", "", pattern or "")
        pattern = pattern.replace(r"\p{all}", r"[\s\S]")
        if pattern and not re.search(pattern, value):
            yield f"{where} is {value}, not of the form {pattern}"


def renamed(inputs: Mapping[str, Any], names: Mapping[str, str], without: tuple[str, ...] = ()) -> dict[str, Any]:
    return {names.get(key, key): value for key, value in inputs.items() if key not in without}


def capitalised(value: Any) -> Any:
    """A value with keys as EC2 writes them. The provider keeps some truth values as text."""
    if isinstance(value, dict):
        return {key[0].upper() + key[1:]: capitalised(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [capitalised(entry) for entry in value]
    return value == "true" if value in ("true", "false") else value


def tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def cluster_request(resource: Recorded) -> tuple[str, str, dict[str, Any]]:
    request = renamed(resource.inputs, {"vpcConfig": "resourcesVpcConfig"}, ("enabledClusterLogTypes", "tagsAll"))
    types = resource.inputs.get("enabledClusterLogTypes")
    if types:
        request["logging"] = {"clusterLogging": [{"types": types, "enabled": True}]}
    return "eks", "CreateCluster", request


def group_request(resource: Recorded) -> tuple[str, str, dict[str, Any]]:
    names = {"subnetIds": "subnets", "nodeRoleArn": "nodeRole"}
    request = renamed(resource.inputs, names, ("forceUpdateVersion",)) | {"nodegroupName": resource.name}
    return "eks", "CreateNodegroup", request


def template_request(resource: Recorded) -> tuple[str, str, dict[str, Any]]:
    data = capitalised({key: value for key, value in resource.inputs.items() if key != "updateDefaultVersion"})
    for specification in data["TagSpecifications"]:
        specification["Tags"] = [
            {"Key": key[0].lower() + key[1:], "Value": value} for key, value in specification["Tags"].items()
        ]
    return "ec2", "CreateLaunchTemplate", {"LaunchTemplateName": resource.name, "LaunchTemplateData": data}


def addon_request(resource: Recorded) -> tuple[str, str, dict[str, Any]]:
    names = {"resolveConflictsOnCreate": "resolveConflicts"}
    return "eks", "CreateAddon", renamed(resource.inputs, names, ("resolveConflictsOnUpdate",))


def endpoint_request(resource: Recorded) -> tuple[str, str, dict[str, Any]]:
    request = capitalised({key: value for key, value in resource.inputs.items() if key != "tags"})
    return "ec2", "CreateVpcEndpoint", request


def log_request(resource: Recorded) -> tuple[str, str, dict[str, Any]]:
    names = {"name": "logGroupName"}
    return "logs", "PutRetentionPolicy", renamed(resource.inputs, names, ("skipDestroy", "tags"))


def budget_request(resource: Recorded) -> tuple[str, str, dict[str, Any]]:
    sent = resource.inputs
    budget = {
        "BudgetName": resource.name,
        "BudgetLimit": {"Amount": sent["limitAmount"], "Unit": sent["limitUnit"]},
        "CostFilters": {each["name"]: each["values"] for each in sent["costFilters"]},
        "TimeUnit": sent["timeUnit"],
        "BudgetType": sent["budgetType"],
    }
    notifications = [
        {
            "Notification": {
                key[0].upper() + key[1:]: float(value) if key == "threshold" else value
                for key, value in each.items()
                if key != "subscriberEmailAddresses"
            },
            "Subscribers": [
                {"SubscriptionType": "EMAIL", "Address": address} for address in each["subscriberEmailAddresses"]
            ],
        }
        for each in sent["notifications"]
    ]
    request = {"AccountId": "123456789012", "Budget": budget, "NotificationsWithSubscribers": notifications}
    return "budgets", "CreateBudget", request


def volume_request(resource: Recorded) -> tuple[str, str, dict[str, Any]]:
    request = capitalised(
        {key: value for key, value in resource.inputs.items() if key not in ("tags", "finalSnapshot")}
    )
    request = renamed(request, {"Type": "VolumeType"})
    tags = {"ResourceType": "volume", "Tags": tag_list(resource.inputs["tags"])}
    return "ec2", "CreateVolume", request | {"TagSpecifications": [tags]}


def daily_request(resource: Recorded) -> tuple[str, str, dict[str, Any]]:
    sent = resource.inputs
    details = capitalised(sent["policyDetails"]) | {"TargetTags": tag_list(sent["policyDetails"]["targetTags"])}
    for schedule in details["Schedules"]:
        # The provider has the one time that AWS allows as text (lifecycle_policy.go: expandCreateRule).
        schedule["CreateRule"]["Times"] = [schedule["CreateRule"]["Times"]]
    request = capitalised({key: value for key, value in sent.items() if key not in ("policyDetails", "tags")})
    return "dlm", "CreateLifecyclePolicy", request | {"PolicyDetails": details}


def association_request(resource: Recorded) -> tuple[str, str, dict[str, Any]]:
    return "eks", "CreatePodIdentityAssociation", resource.inputs


def policy_request(resource: Recorded) -> tuple[str, str, dict[str, Any]]:
    names = {"role": "RoleName", "policy": "PolicyDocument"}
    return "iam", "PutRolePolicy", renamed(resource.inputs, names) | {"PolicyName": resource.name}


REQUESTS = {
    "aws:eks/podIdentityAssociation:PodIdentityAssociation": association_request,
    "aws:iam/rolePolicy:RolePolicy": policy_request,
    "aws:budgets/budget:Budget": budget_request,
    "aws:ebs/volume:Volume": volume_request,
    "aws:dlm/lifecyclePolicy:LifecyclePolicy": daily_request,
    "aws:eks/cluster:Cluster": cluster_request,
    "aws:eks/nodeGroup:NodeGroup": group_request,
    "aws:eks/addon:Addon": addon_request,
    "aws:ec2/launchTemplate:LaunchTemplate": template_request,
    "aws:ec2/vpcEndpoint:VpcEndpoint": endpoint_request,
    "aws:cloudwatch/logGroup:LogGroup": log_request,
}


@pytest.mark.parametrize("variation", VARIATIONS)
def test_requests_are_of_the_form_that_aws_describes(variation: str) -> None:
    done = eks(VARIATIONS[variation])
    checked = set()
    for resource in done.resources:
        if resource.type in REQUESTS:
            name, operation_name, request = REQUESTS[resource.type](resource)
            shape = operation(name, operation_name).input_shape
            assert shape is not None
            assert complaints(request, shape) == [], f"{resource.name}: {operation_name}"
            checked.add(resource.type)
    unused = {"aws:ec2/vpcEndpoint:VpcEndpoint", "aws:cloudwatch/logGroup:LogGroup"} if variation == "given" else set()
    if variation != "most":
        unused |= {"aws:budgets/budget:Budget", "aws:dlm/lifecyclePolicy:LifecyclePolicy"}
    of_buckets = {"aws:eks/podIdentityAssociation:PodIdentityAssociation", "aws:iam/rolePolicy:RolePolicy"}
    assert checked - of_buckets == set(REQUESTS) - of_buckets - unused
    assert of_buckets <= checked or variation != "data"


def test_a_wrong_request_is_noticed() -> None:
    _, _, request = group_request(team().one("nodeGroup:NodeGroup", "workers"))
    shape = operation("eks", "CreateNodegroup").input_shape
    assert shape is not None
    for wrong in (
        {"capacityType": "CHEAP"},
        {"instanceTypes": "m6i.xlarge"},
        {"unknown": True},
        {"taints": [{"key": "a", "effect": "NoSchedule"}]},
        {"labels": {"a" * 64: "b"}},
    ):
        assert complaints({**request, **wrong}, shape), wrong


def actions_of(done: Recording) -> set[str]:
    """Actions in the policies that the stack writes."""
    found: set[str] = set()
    for resource in done.resources:
        for key in ("assumeRolePolicy", "policy"):
            text = resource.inputs.get(key)
            if resource.type.startswith("aws:iam/") and isinstance(text, str):
                for statement in json.loads(text)["Statement"]:
                    actions = statement["Action"]
                    found |= set(actions if isinstance(actions, list) else [actions])
    return found


def page() -> str:
    return (ROOT / "docs" / "eks.md").read_text()


def matching_operations(action: str) -> list[str]:
    name, _, pattern = action.partition(":")
    regex = re.compile(re.escape(pattern).replace(r"\*", ".*"))
    return [each for each in service(name).operation_names if regex.fullmatch(each)]


def test_actions_in_policies_are_operations() -> None:
    found = actions_of(eks(VARIATIONS["most"])) | actions_of(eks(VARIATIONS["data"]))
    # The action of an operation with another name (https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2).
    found = {{"s3:ListBucket": "s3:ListObjectsV2"}.get(each, each) for each in found} - set(PERMISSION_ONLY)
    assert len(found) >= 18
    for action in found:
        assert matching_operations(action), action


def test_actions_on_the_page_are_operations() -> None:
    permissions = page().split("### Permissions")[1].split("\n## ")[0]
    found = set(re.findall(r"`([a-z]+:[A-Z*][A-Za-z*]*)`", permissions)) - set(PERMISSION_ONLY)
    assert len(found) >= 25
    for action in found:
        # S3's actions have other names than its operations, and only the wildcard is used.
        assert matching_operations(action), action


OF_THE_CLI = ("aws configure sso", "aws sso login", "aws s3 mb", "aws eks update-kubeconfig")
"""Commands of the CLI that are no operation of a service."""

GLOBAL_OPTIONS = ("region", "query", "output", "profile", "max-items", "no-cli-pager")


def commands(text: str) -> list[list[str]]:
    """Calls of the AWS CLI: service, operation and the names of their options."""
    joined = re.sub(r"\\\n\s*", "", text)
    found = re.findall(r"\baws ([a-z0-9-]+) ([a-z0-9-]+)([^\n|`#]*)", joined)
    return [[name, verb, *re.findall(r"--([a-z0-9-]+)", rest)] for name, verb, rest in found]


def sources() -> str:
    """The commands in errors: the program's text without the breaks of its string literals."""
    texts = [path.read_text() for path in sorted((ROOT / "components" / "clouds" / "aws").glob("*.py"))]
    return re.sub(r'"\s*\n\s*f?"', "", "\n".join(texts))


def test_commands_of_the_aws_cli_exist_with_their_options() -> None:
    found = [each for each in commands(page()) if f"aws {each[0]} {each[1]}" not in OF_THE_CLI]
    assert len(found) >= 20
    in_errors = [each for each in commands(sources()) if each[0] in ("ec2", "service-quotas", "freetier")]
    assert len(in_errors) >= 5
    for name, verb, *options in [*found, *in_errors]:
        by_command = {xform_name(each, "-"): each for each in service(name).operation_names}
        assert verb in by_command, f"aws {name} {verb}"
        shape = operation(name, by_command[verb]).input_shape
        known = {xform_name(member, "-") for member in shape.members} if shape else set()
        assert set(options) <= known | set(GLOBAL_OPTIONS), f"aws {name} {verb}: {set(options) - known}"


def test_questions_to_the_price_list_have_the_form_aws_describes() -> None:
    shape = operation("pricing", "GetProducts").input_shape
    assert shape is not None
    asked = [args for token, args, _ in eks(VARIATIONS["most"]).asked if token == "aws:pricing/getProduct:getProduct"]
    assert len(asked) == 8
    for args in asked:
        filters = [{"Type": "TERM_MATCH", "Field": each["field"], "Value": each["value"]} for each in args["filters"]]
        assert complaints({"ServiceCode": args["serviceCode"], "Filters": filters}, shape) == []
