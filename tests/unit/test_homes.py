"""The home's disk on both clouds: kept by a snapshot at destroy, restored by the next update, never lost in silence."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from tests.unit import aws_cloud, google_cloud
from tests.unit.cloud_mocks import Recorded, Recording, refusal_of, unchecked

pytestmark = pytest.mark.usefixtures("installed_tools")

HOME = google_cloud.HOME


@dataclass(frozen=True)
class Cloud:
    """A mocked cloud, and its words for a home's disk."""

    run: Callable[..., Recording]
    module: Any
    disk: str
    keeps: str
    source: str
    zone: str
    zones: tuple[str, str]
    driver: str
    newest: str
    ignored: frozenset[str]


GKE = Cloud(
    run=google_cloud.gke,
    module=google_cloud,
    disk="gcp:compute/disk:Disk",
    keeps="createSnapshotBeforeDestroy",
    source="snapshot",
    zone="zone",
    zones=("us-west1-a", "us-west1-c"),
    driver="pd.csi.storage.gke.io",
    newest=f"{HOME}-20261128-170000",
    ignored=frozenset({"zone", "size", "snapshot", "type"}),
)
EKS = Cloud(
    run=aws_cloud.eks,
    module=aws_cloud,
    disk="aws:ebs/volume:Volume",
    keeps="finalSnapshot",
    source="snapshotId",
    zone="availabilityZone",
    zones=("us-west-2a", "us-west-2c"),
    driver="ebs.csi.aws.com",
    newest="snap-0123456789abcdef0",
    ignored=frozenset({"availabilityZone", "size", "snapshotId", "encrypted"}),
)


@pytest.fixture(params=[GKE, EKS], ids=["gke", "eks"])
def cloud(request: pytest.FixtureRequest) -> Cloud:
    found: Cloud = request.param
    return found


def with_snapshot(cloud: Cloud, gib: int = 10) -> dict[str, Any]:
    return {cloud.module.GET_SNAPSHOT: cloud.module.a_snapshot(gib)}


def with_disk(cloud: Cloud, zone: str, gib: int) -> dict[str, Any]:
    return {cloud.module.GET_DISK: cloud.module.a_disk(zone, gib)}


def refused_by(cloud: Cloud, config: Mapping[str, Any], answers: Mapping[str, Any]) -> str:
    return refusal_of(lambda: cloud.run(config, answers))


def disk_of(cloud: Cloud, done: Recording) -> Recorded:
    return done.one(cloud.disk)


def said(done: Recording) -> str:
    return "\n".join(text for _, text in done.said)


def asked(cloud: Cloud, done: Recording) -> list[dict[str, Any]]:
    """The questions about snapshots."""
    return [args for token, args, _ in done.asked if token == cloud.module.GET_SNAPSHOT]


def test_home_is_the_stacks_disk_which_pods_claim_by_name(cloud: Cloud) -> None:
    done = cloud.run()
    disk, claim = disk_of(cloud, done), done.one("core/v1:PersistentVolumeClaim", "-home").inputs
    volume = done.one("core/v1:PersistentVolume", "-home")
    assert (disk.inputs["size"], disk.inputs[cloud.zone]) == (10, cloud.zones[0])
    spec = volume.inputs["spec"]
    assert spec["csi"]["driver"] == cloud.driver
    assert spec["csi"]["fsType"] == "ext4", "without it the driver leaves the files to root"
    handles = {
        GKE: f"projects/my-project/zones/us-west1-a/disks/{HOME}",
        EKS: f"{disk.name}-id",
    }
    assert spec["csi"]["volumeHandle"] == handles[cloud]
    (term,) = spec["nodeAffinity"]["required"]["nodeSelectorTerms"]
    (rule,) = term["matchExpressions"]
    assert (rule["operator"], rule["values"]) == ("In", [cloud.zones[0]])
    assert rule["key"] == {GKE: "topology.gke.io/zone", EKS: "topology.kubernetes.io/zone"}[cloud]
    assert spec["persistentVolumeReclaimPolicy"] == "Retain", "Kubernetes would delete the disk without a snapshot"
    assert spec["claimRef"] == {"namespace": "future-team", "name": "future-team-home"}
    assert claim["metadata"]["name"] == "future-team-home"
    assert claim["spec"]["volumeName"] == volume.inputs["metadata"]["name"]
    assert claim["spec"]["accessModes"] == spec["accessModes"] == ["ReadWriteOnce"], "else the claim is never bound"
    assert claim["spec"]["storageClassName"] == spec["storageClassName"] == "future-disks", "by which it can grow"
    assert claim["spec"]["resources"]["requests"]["storage"] == "10Gi"
    release = done.one("v3:Release", "future-team").inputs["values"]["scheduler"]
    assert (release["homeExistingClaim"], release["homeGiB"]) == ("future-team-home", 10)


def test_disk_goes_after_everything_that_can_write_to_it(cloud: Cloud) -> None:
    """The pod's end removes the claim, and the detached disk the volume. So the snapshot has all that was written."""
    done = cloud.run({"keepHome": True})
    order = [
        done.one("v3:Release", "future-team"),
        done.one("core/v1:PersistentVolumeClaim", "-home"),
        done.one("core/v1:PersistentVolume", "-home"),
        disk_of(cloud, done),
    ]
    for first, then in itertools.pairwise(order):
        assert done.goes_before(first, then), f"{then.name} could go before {first.name}"
    guard = done.one("DestroyGuard")
    assert done.goes_before(order[2], guard), "the driver that detaches the disk would be gone"


def test_destroy_snapshots_only_with_keep_home_and_output_says_it(cloud: Cloud) -> None:
    kept, lost, none = cloud.run({"keepHome": "true"}), cloud.run(), cloud.run({"homeGiB": 0})
    assert disk_of(cloud, kept).inputs[cloud.keeps] is True
    assert disk_of(cloud, lost).inputs[cloud.keeps] is False
    assert kept.outputs["home"][0].startswith("kept: pulumi destroy makes a snapshot")
    assert lost.outputs["home"][0] == (
        "deleted by pulumi destroy; to keep it: pulumi config set keepHome true && pulumi up"
    )
    assert none.outputs["home"][0].startswith("none: ")
    assert not none.all(cloud.disk)
    assert not none.all("core/v1:PersistentVolumeClaim")
    timeouts = {"snapshot of a large disk": "3h"}
    assert disk_of(cloud, kept).timeouts == timeouts["snapshot of a large disk"], "providers give up after minutes"


def test_switching_keep_home_replaces_nothing(cloud: Cloud) -> None:
    """Both are one disk, of which only the snapshot at its end changes. Another disk would be an empty home."""
    kept, lost = disk_of(cloud, cloud.run({"keepHome": True})), disk_of(cloud, cloud.run())
    assert {**kept.inputs, cloud.keeps: False} == lost.inputs
    assert kept.urn == lost.urn


def test_next_update_restores_the_newest_snapshot_and_says_so(cloud: Cloud) -> None:
    done = cloud.run({"keepHome": True}, with_snapshot(cloud))
    assert disk_of(cloud, done).inputs[cloud.source] == cloud.newest
    assert f"the home is restored from snapshot {cloud.newest} of 2026-11-28T" in said(done)
    (question,) = asked(cloud, done)
    if cloud is GKE:
        assert question == {"project": "my-project", "mostRecent": True, "filter": f'name eq "{HOME}-[0-9]+-[0-9]+"'}
    else:
        assert (question["mostRecent"], question["owners"]) == (True, ["self"]), "others publish snapshots too"
        assert {each["name"]: each["values"] for each in question["filters"]} == {
            "tag:future-kubernetes-home": [HOME],
            "status": ["completed"],
        }


def test_snapshot_is_found_by_what_the_disk_has(cloud: Cloud) -> None:
    """Google's provider names the last snapshot after the disk, and AWS's gives it the disk's tags."""
    disk = disk_of(cloud, cloud.run({"keepHome": True})).inputs
    if cloud is GKE:
        assert disk["name"] == HOME
        long = cloud.run({}, stack_name="a-team-with-a-very-long-name0")
        name = disk_of(cloud, long).inputs["name"]
        assert len(name) <= 48, "the provider refuses a longer one at destroy"
        assert "createSnapshotBeforeDestroyPrefix" not in disk
    else:
        assert disk["tags"]["future-kubernetes-home"] == HOME


def test_homes_of_other_stacks_have_other_names(cloud: Cloud) -> None:
    names = set()
    for stack in ("team", "Team", "te-am", "biology"):
        disk = disk_of(cloud, cloud.run({}, stack_name=stack)).inputs
        names.add(disk["name"] if cloud is GKE else disk["tags"]["future-kubernetes-home"])
    assert len(names) == 4


def test_without_a_snapshot_the_home_is_empty_which_is_said(cloud: Cloud) -> None:
    done = cloud.run({"keepHome": True})
    assert cloud.source not in disk_of(cloud, done).inputs
    assert "there is no snapshot of a home of this stack, so the home is empty" in said(done)
    assert asked(cloud, cloud.run()) == [], "without keepHome nothing is restored"


def test_refused_question_about_snapshots_stops_the_update(cloud: Cloud) -> None:
    """Otherwise an expired login would make an empty home, and the kept one would be forgotten."""

    def denied(_args: Mapping[str, Any]) -> dict[str, Any]:
        raise PermissionError("403 AccessDenied: not authorized")

    text = refused_by(cloud, {"keepHome": True}, {cloud.module.GET_SNAPSHOT: denied})
    assert "cannot find out the snapshots of the home" in text


def test_named_snapshot_is_restored_with_or_without_keep_home(cloud: Cloud) -> None:
    name = {GKE: "before-the-course", EKS: "snap-00000000000000abc"}[cloud]
    for config in ({}, {"keepHome": True}):
        done = cloud.run({**config, "homeSnapshot": name}, with_snapshot(cloud))
        assert disk_of(cloud, done).inputs[cloud.source] == name


def test_none_stands_for_an_empty_home(cloud: Cloud) -> None:
    done = cloud.run({"keepHome": True, "homeSnapshot": "none"}, with_snapshot(cloud))
    assert cloud.source not in disk_of(cloud, done).inputs
    assert asked(cloud, done) == []


def test_missing_snapshot_is_refused_with_the_command_that_lists_them(cloud: Cloud) -> None:
    name = {GKE: "before-the-course", EKS: "snap-00000000000000abc"}[cloud]
    answers = {cloud.module.GET_SNAPSHOT: cloud.module.ANSWERS[cloud.module.GET_SNAPSHOT]}
    text = refused_by(cloud, {"homeSnapshot": name}, answers)
    assert f"homeSnapshot is '{name}', which does not exist" in text
    assert {GKE: "gcloud compute snapshots list --project=my-project", EKS: "aws ec2 describe-snapshots"}[cloud] in text
    assert "pulumi config set homeSnapshot none" in text


def test_snapshot_of_a_larger_disk_is_refused_with_the_size(cloud: Cloud) -> None:
    text = refused_by(cloud, {"keepHome": True, "homeGiB": 20}, with_snapshot(cloud, 50))
    assert "at least 50" in text
    assert "pulumi config set homeGiB 50" in text
    assert disk_of(cloud, cloud.run({"keepHome": True, "homeGiB": 60}, with_snapshot(cloud, 50))).inputs["size"] == 60


def test_existing_disk_is_made_from_nothing_whatever_the_settings(cloud: Cloud) -> None:
    """Pulumi keeps its snapshot, size and zone as they were: a new value of each would be another disk."""
    answers = {**with_disk(cloud, cloud.zones[0], 10), **with_snapshot(cloud)}
    done = cloud.run({"keepHome": True, "homeGiB": 20}, answers)
    assert asked(cloud, done) == []
    assert set(disk_of(cloud, done).ignore_changes) == cloud.ignored
    claim = done.one("core/v1:PersistentVolumeClaim", "-home").inputs["spec"]
    assert claim["resources"]["requests"]["storage"] == "20Gi", "by which the driver expands the disk"
    assert done.one("core/v1:PersistentVolume", "-home").ignore_changes == ["spec.capacity"]
    assert done.one("StorageClass", "-disks").inputs["allowVolumeExpansion"] is True


def test_smaller_home_is_refused_before_anything_is_touched(cloud: Cloud) -> None:
    text = refused_by(cloud, {"homeGiB": 5}, with_disk(cloud, cloud.zones[0], 20))
    assert "homeGiB is 5, and the home's disk has 20 GiB" in text
    assert "pulumi config set homeGiB 20" in text


def test_home_in_another_zone_is_refused_with_the_way_there(cloud: Cloud) -> None:
    """The pod would wait for ever for a node in the zone of its disk."""
    text = refused_by(cloud, {}, with_disk(cloud, cloud.zones[1], 10))
    assert f"the home's disk is in {cloud.zones[1]}" in text
    assert f"pulumi config set zone {cloud.zones[1]}" in text
    assert "keepHome true" in text


def test_disk_hidden_from_the_caller_is_named_as_unchecked(cloud: Cloud) -> None:
    def denied(_args: Mapping[str, Any]) -> dict[str, Any]:
        raise PermissionError("403 AccessDenied: not authorized")

    done = cloud.run({}, {cloud.module.GET_DISK: denied})
    assert "whether the home has a disk" in unchecked(done)


def test_daily_snapshots_are_kept_for_the_days_that_are_set(cloud: Cloud) -> None:
    done = cloud.run({"homeSnapshotDays": 14})
    if cloud is GKE:
        policy = done.one("resourcePolicy:ResourcePolicy")
        schedule = policy.inputs["snapshotSchedulePolicy"]
        assert schedule["schedule"] == {"dailySchedule": {"daysInCycle": 1, "startTime": "02:00"}}
        assert schedule["retentionPolicy"] == {"maxRetentionDays": 14, "onSourceDiskDelete": "APPLY_RETENTION_POLICY"}
        assert schedule["snapshotProperties"]["labels"]["stack"] == "team", "for the cost report"
        attachment = done.one("DiskResourcePolicyAttachment")
        assert attachment.inputs == {"name": f"{policy.name}-0a1b2c3", "disk": HOME, "zone": "us-west1-a"}
        assert done.goes_before(attachment, policy), "Google deletes no policy in use"
    else:
        policy = done.one("dlm/lifecyclePolicy:LifecyclePolicy")
        details = policy.inputs["policyDetails"]
        disk = disk_of(cloud, done).inputs["tags"]
        assert details["targetTags"].items() <= disk.items(), "by which it finds the disk"
        (schedule,) = details["schedules"]
        assert schedule["createRule"] == {"interval": 24, "intervalUnit": "HOURS", "times": "02:00"}
        assert (schedule["retainRule"], schedule["copyTags"]) == ({"count": 14}, True)
        role = done.one("iam/role:Role", "-snapshots")
        assert '"dlm.amazonaws.com"' in role.inputs["assumeRolePolicy"]
        assert done.goes_before(policy, done.one("RolePolicyAttachment", "-snapshots-"))
    nothing = cloud.run()
    assert not [each for each in nothing.resources if "daily" in each.name]


def test_snapshots_are_named_in_hourly_cost_and_in_no_sum(cloud: Cloud) -> None:
    plain, kept = cloud.run().outputs["hourlyCost"][0], cloud.run({"homeSnapshotDays": 14}).outputs["hourlyCost"][0]
    assert kept["now"] == plain["now"]
    if cloud is EKS:  # the price list of Google is asked in test_gke_pricing.py
        assert "by use" in kept["parts"]["home snapshots"]
        assert "home snapshots" not in plain["parts"]
        assert "home snapshots" in cloud.run({"keepHome": True}).outputs["hourlyCost"][0]["parts"]


def test_disk_carries_the_name_of_the_cluster_that_attaches_it() -> None:
    done = aws_cloud.eks()
    tags = done.one("aws:ebs/volume:Volume").inputs["tags"]
    cluster = done.one("eks/cluster:Cluster")
    assert tags["ebs.csi.aws.com/cluster-name"] == f"{cluster.name}-0a1b2c3"
    policies = [each.inputs["policyArn"] for each in done.all("RolePolicyAttachment", "-disks-")]
    assert policies == ["arn:aws:iam::aws:policy/AmazonEBSCSIDriverEKSClusterScopedPolicy"]
    volume = done.one("aws:ebs/volume:Volume").inputs
    assert (volume["type"], volume["throughput"], volume["encrypted"]) == ("gp3", 125, True)


@pytest.mark.parametrize("key", ["keepHome", "homeSnapshot", "homeSnapshotDays"])
def test_settings_of_a_home_without_a_home_are_refused(cloud: Cloud, key: str) -> None:
    value = {"keepHome": True, "homeSnapshot": "none", "homeSnapshotDays": 7}[key]
    text = refused_by(cloud, {"homeGiB": 0, key: value}, {"never-called": lambda _args: {}})
    assert f"{key} is set, and homeGiB is 0" in text
    assert f"pulumi config rm {key}" in text


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"homeSnapshotDays": 366}, "from 0 to 365"),
        ({"homeSnapshotDays": "weekly"}, "from 0 to 365"),
        ({"keepHome": "snapshot"}, "true or false"),
    ],
)
def test_wrong_values_are_refused(cloud: Cloud, config: dict[str, Any], words: str) -> None:
    assert words in refused_by(cloud, config, {"never-called": lambda _args: {}})


def test_snapshot_of_the_other_cloud_is_refused() -> None:
    assert "the name of a snapshot in the project" in google_cloud.refused({"homeSnapshot": "Snap_1"})
    assert "snap-0123456789abcdef0" in aws_cloud.refused({"homeSnapshot": "before-the-course"})
