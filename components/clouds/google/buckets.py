"""Buckets of Cloud Storage that the pods of the stack may use, by Workload Identity Federation: without a key.

The member of each grant is a Kubernetes service account, as IAM names it. IAM does not see the cluster in it: another
cluster of the same project, with a namespace and an account of the same names, would be granted the same.
"""

from __future__ import annotations

import pulumi
import pulumi_gcp as gcp

from components.clouds.base import CloudIdentity, service_accounts
from components.clouds.buckets import Bucket, parsed
from components.clouds.checks import CloudError, Refusal, found_or_none, problem, say_unchecked
from components.clouds.google.settings import GkeSettings
from components.clouds.scope import Scope

READ, WRITE = "roles/storage.objectViewer", "roles/storage.objectUser"
"""Roles on objects. Neither may change the bucket, nor who may use it."""

IDENTITY = CloudIdentity("169.254.169.254:80")
"""GKE's metadata server on each node. On Dataplane V2 a network policy sees this address
(https://cloud.google.com/kubernetes-engine/docs/how-to/workload-identity)."""


def check_buckets(settings: GkeSettings, number: str, lookup: pulumi.InvokeOptions) -> None:
    """Raises CloudError for a bucket that does not exist or belongs to another project.

    number: of the project. Where the caller may not see a bucket, the check says so.
    """
    for bucket in parsed(settings.buckets):
        owner = project_of(bucket, lookup)
        if owner == "":
            raise CloudError(
                problem(
                    f"buckets has gs://{bucket.name}, which does not exist",
                    "buckets that exist: the stack creates none, so that it deletes none",
                    f"gcloud storage buckets create gs://{bucket.name} --project={settings.project} "
                    f"--location={settings.region} --uniform-bucket-level-access",
                )
            )
        if owner is not None and owner != number:
            raise CloudError(
                problem(
                    f"buckets has gs://{bucket.name}, a bucket of the project with number {owner}",
                    f"buckets of project {settings.project}, which has number {number}",
                    f"gcloud storage buckets list --project={settings.project}, then pulumi config set buckets",
                )
            )


def project_of(bucket: Bucket, lookup: pulumi.InvokeOptions) -> str | None:
    """Number of the project that has a bucket. Empty for none, None where Google refuses to say, which is said."""
    # A refusal says "or it may not exist", and a bucket's name may have a 404 in it.
    missing = r"Error 404|does not exist"
    try:
        found = found_or_none(lambda: gcp.storage.get_bucket(name=bucket.name, opts=lookup), missing)
        return str(int(found.project_number)) if found else ""
    except Refusal as error:
        say_unchecked(f"whether there is a bucket gs://{bucket.name} in this project", error)
        return None


def grant_buckets(
    scope: Scope, settings: GkeSettings, project_number: str, cluster: gcp.container.Cluster
) -> list[pulumi.Resource]:
    """A grant for scheduler and workers on each bucket.

    cluster: the first one of a project brings the pool of identities.
    """
    pool = (
        f"principal://iam.googleapis.com/projects/{project_number}/locations/global/workloadIdentityPools/"
        f"{settings.project}.svc.id.goog/subject/ns/{settings.namespace}/sa/"
    )
    return [
        gcp.storage.BucketIAMMember(
            f"{scope.name}-bucket-{bucket.name}-{part}",
            bucket=bucket.name,
            role=WRITE if bucket.writable else READ,
            member=pool + account,
            opts=scope.options(depends_on=[cluster]),
        )
        for bucket in parsed(settings.buckets)
        for part, account in service_accounts(settings).items()
    ]
