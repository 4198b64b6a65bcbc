"""The setting `buckets`: grants to this release's service accounts and to nothing else, and what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest

from tests.unit import aws_cloud, google_cloud
from tests.unit.aws_cloud import eks, refuse
from tests.unit.both_clouds import own_release
from tests.unit.cloud_mocks import Recording, unchecked
from tests.unit.google_cloud import gke

pytestmark = pytest.mark.usefixtures("installed_tools")

GOOGLE = {"buckets": "gs://team-data,gs://results:rw"}
AWS = {"buckets": ["s3://team-data", "s3://results:rw"]}


def values(done: Recording) -> dict[str, Any]:
    return dict(own_release(done).inputs["values"])


def test_google_grants_each_bucket_to_both_service_accounts_only() -> None:
    grants = [each.inputs for each in gke(GOOGLE).all("bucketIAMMember:BucketIAMMember")]
    pool = "principal://iam.googleapis.com/projects/123456789/locations/global/workloadIdentityPools"
    accounts = [
        f"{pool}/my-project.svc.id.goog/subject/ns/future-team/sa/future-team-{part}"
        for part in ("scheduler", "worker")
    ]
    rights = {"team-data": "roles/storage.objectViewer", "results": "roles/storage.objectUser"}
    expected = [
        {"bucket": bucket, "role": role, "member": account} for bucket, role in rights.items() for account in accounts
    ]
    assert {tuple(sorted(each.items())) for each in grants} == {tuple(sorted(each.items())) for each in expected}
    assert len(grants) == len(expected)


def test_google_grants_nothing_without_buckets() -> None:
    assert gke().all("bucketIAMMember:BucketIAMMember") == []
    assert values(gke())["networkPolicy"]["identityServer"] == ""


def statements(done: Recording) -> dict[tuple[str, ...], list[str]]:
    """The resources of each statement of the role's policy, by its actions."""
    found = json.loads(done.one("rolePolicy:RolePolicy", "-data").inputs["policy"])["Statement"]
    for each in found:
        assert each["Effect"] == "Allow"
        assert each["Condition"] == {"StringEquals": {"aws:ResourceAccount": "123456789012"}}
    return {tuple(each["Action"]): each["Resource"] for each in found}


def test_aws_role_writes_only_to_the_bucket_with_rw() -> None:
    assert statements(eks(AWS)) == {
        ("s3:ListBucket", "s3:GetBucketLocation"): ["arn:aws:s3:::team-data", "arn:aws:s3:::results"],
        ("s3:GetObject",): ["arn:aws:s3:::team-data/*", "arn:aws:s3:::results/*"],
        ("s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"): ["arn:aws:s3:::results/*"],
    }
    read_only = statements(eks({"buckets": "s3://team-data"}))
    assert not any("Put" in action or "Delete" in action for actions in read_only for action in actions)


def test_aws_role_trusts_only_this_releases_pods_on_this_cluster() -> None:
    done = eks(AWS)
    [role] = [each for each in done.all("iam/role:Role") if each.name.endswith("-data")]
    [trust] = json.loads(role.inputs["assumeRolePolicy"])["Statement"]
    assert trust["Principal"] == {"Service": "pods.eks.amazonaws.com"}
    tags = trust["Condition"]["StringEquals"]
    assert tags.pop("aws:RequestTag/eks-cluster-arn").endswith(":Cluster/future-team-0a1b2c3")
    assert tags == {
        "aws:RequestTag/kubernetes-namespace": "future-team",
        "aws:RequestTag/kubernetes-service-account": ["future-team-scheduler", "future-team-worker"],
    }


def test_aws_associates_both_service_accounts_before_the_release() -> None:
    done = eks(AWS)
    associations = done.all("podIdentityAssociation:PodIdentityAssociation")
    assert sorted(each.inputs["serviceAccount"] for each in associations) == [
        "future-team-scheduler",
        "future-team-worker",
    ]
    agent = done.one("addon:Addon", "eks-pod-identity-agent")
    for each in associations:
        assert each.inputs["namespace"] == own_release(done).inputs["namespace"] == "future-team"
        assert done.goes_before(own_release(done), each), "EKS gives a pod its credentials when the pod is created"
        assert done.goes_before(each, done.one("rolePolicy:RolePolicy", "-data"))
    assert done.goes_before(own_release(done), agent)


def test_the_network_is_opened_to_the_server_of_credentials() -> None:
    assert values(gke(GOOGLE))["networkPolicy"]["identityServer"] == "169.254.169.254:80"
    assert values(eks(AWS))["networkPolicy"]["identityServer"] == "169.254.170.23:80"


def test_first_bucket_replaces_pods_on_aws_and_second_does_not() -> None:
    def annotations(done: Recording) -> list[Any]:
        return [values(done)[part].get("podAnnotations") for part in ("scheduler", "worker")]

    assert annotations(eks()) == annotations(gke(GOOGLE)) == [None, None]
    assert annotations(eks({"buckets": "s3://results"})) == annotations(eks(AWS))
    assert annotations(eks(AWS)) == [{"future-kubernetes/identity": "eks-pod-identity"}] * 2


def running_stack(*roles: str, cluster: bool = True) -> dict[str, Any]:
    """AWS's answers about the roles of the account, and about a cluster of this stack."""
    arn = "arn:aws:eks:us-west-2:123456789012:cluster/future-team-0"

    def named(args: Mapping[str, Any]) -> dict[str, Any]:
        return {"id": "r", "names": [name for name in roles if re.search(args["nameRegex"], name)], "arns": []}

    return {
        "aws:iam/getRoles:getRoles": named,
        "aws:resourcegroupstaggingapi/getResources:getResources": lambda _args: {
            "id": "r",
            "resourceTagMappingLists": [{"resourceArn": arn}] if cluster else [],
        },
    }


def test_first_bucket_of_a_running_aws_stack_says_what_restarts() -> None:
    def told(config: dict[str, Any], answers: dict[str, Any]) -> bool:
        return any("restarts scheduler and workers" in text for _, text in eks(config, answers).said)

    others = ("future-team-data-nodes-0a1b2c3", "future-team-nodes-0a1b2c3", "my-future-team-data-0a1b2c3")
    assert told(AWS, running_stack(*others))
    assert not told(AWS, running_stack("future-team-data-0a1b2c3")), "a second bucket restarts nothing"
    assert not told(AWS, running_stack(cluster=False)), "a new stack has nothing to restart"
    assert not told({}, running_stack())


def test_roles_hidden_from_the_caller_are_reported_without_stopping_buckets() -> None:
    answers = {**running_stack(), "aws:iam/getRoles:getRoles": refuse("AccessDenied")}
    assert "whether the first bucket restarts" in unchecked(eks(AWS, answers))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("s3://team-data", "s3:// is of cloud eks"),
        ("team-data", "it does not begin with gs://"),
        ("azure://team-data", "there is no azure:// here"),
        ("gs://team-data:rx", ":rx is no right"),
        ("gs://team-data:", ": is no right"),
        ("gs://team-data/year=2026", "a whole bucket, without /year=2026"),
        ("gs://", "'' is no bucket's name"),
        ("gs://Team", "'Team' is no bucket's name"),
        ("gs://goog-data", "'goog-data' is no bucket's name"),
        ("gs://*", "'*' is no bucket's name"),
        ("gs://team-data,gs://team-data:rw", "team-data twice, with different rights"),
    ],
)
def test_wrong_buckets_on_google_are_refused(given: str, message: str) -> None:
    text = google_cloud.refused({"buckets": given})
    assert message in text
    assert "fix:     pulumi config set buckets gs://" in text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("gs://team-data", "gs:// is of cloud gke"),
        ("s3://team-data:rx", ":rx is no right"),
        ("s3://10.0.0.1", "'10.0.0.1' is no bucket's name"),
        ("s3://a..b", "'a..b' is no bucket's name"),
        ("s3://team_data", "'team_data' is no bucket's name"),
        ("s3://team-data:rw s3://team-data", "team-data twice, with different rights"),
    ],
)
def test_wrong_buckets_on_aws_are_refused(given: str, message: str) -> None:
    text = aws_cloud.refused({"buckets": given})
    assert message in text
    assert "fix:     pulumi config set buckets s3://" in text


def test_the_same_bucket_twice_is_one() -> None:
    assert len(gke({"buckets": "gs://team-data gs://team-data gs://team-data/"}).all("BucketIAMMember")) == 2


def test_missing_buckets_are_refused_before_anything_is_made() -> None:
    text = google_cloud.refused({"buckets": "gs://no-such"})
    assert "gs://no-such, which does not exist" in text
    assert "gcloud storage buckets create gs://no-such --project=my-project" in text
    text = aws_cloud.refused({"buckets": "s3://no-such"})
    assert "s3://no-such, which does not exist" in text
    assert "aws s3 mb s3://no-such --region us-west-2" in text


def test_a_bucket_of_another_project_is_refused() -> None:
    text = google_cloud.refused({"buckets": "gs://of-others"})
    assert "gs://of-others, a bucket of the project with number 987654321" in text
    assert "project my-project, which has number 123456789" in text


@pytest.mark.parametrize("name", ["hidden", "hidden-404"])
def test_bucket_hidden_from_the_caller_is_named_as_unchecked(name: str) -> None:
    google, aws = unchecked(gke({"buckets": f"gs://{name}"})), unchecked(eks({"buckets": f"s3://{name}"}))
    assert f"whether there is a bucket gs://{name} in this project. Reason: " in google
    assert f"whether there is a bucket s3://{name} in this account. Reason: " in aws


def test_a_bucket_in_another_region_is_warned_of() -> None:
    assert any("s3://far, which is in eu-west-1" in text for text in eks({"buckets": "s3://far"}).warnings)
    assert not any("bucket" in text for text in eks(AWS).warnings)


def test_buckets_are_refused_on_clusters_the_stack_does_not_make() -> None:
    text = google_cloud.refused({"cloud": "kubeconfig", "image": "ghcr.io/o/i:1", "buckets": "gs://team-data"})
    assert "only where cloud is gke or eks; here it is kubeconfig" in text
