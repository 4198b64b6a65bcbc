"""A mock of Google Cloud: three zones of us-west1, a few machine types, no quotas."""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any

from tests.unit.cloud_mocks import DRAWN, Answer
from tests.unit.mocked_program import MockedProgram

ZONES = ["us-west1-a", "us-west1-b", "us-west1-c"]

MACHINE_TYPES = {
    # name: vCPUs, memory in MB, architecture, shared, zones
    "e2-medium": (2, 4096, "X86_64", True, ZONES),
    "e2-standard-2": (2, 8192, "X86_64", False, ZONES),
    "e2-standard-4": (4, 16384, "X86_64", False, ZONES),
    "n2-shared-2": (2, 8192, "X86_64", True, ZONES),
    "e2-highmem-8": (8, 65536, "X86_64", False, ZONES),
    "n1-standard-1": (1, 3840, "", False, ZONES),
    "c3-standard-4": (4, 16384, "X86_64", False, ["us-west1-b", "us-west1-c"]),
    "n4-standard-4": (4, 16384, "X86_64", False, ZONES),
    "m1-ultramem-40": (40, 984064, "X86_64", False, ZONES),
    "g2-standard-4": (4, 16384, "X86_64", False, ZONES),
    "ct5lp-hightpu-1t": (24, 49152, "X86_64", False, ZONES),
    "t2a-standard-4": (4, 16384, "ARM64", False, ZONES),
}

ACCELERATORS = {"g2-standard-4": "nvidia-l4", "ct5lp-hightpu-1t": "ct5lp"}

GKE = {"cloud": "gke", "project": "my-project", "region": "us-west1", "authorizedNetworks": "203.0.113.0/24"}


def zones(args: Mapping[str, Any]) -> dict[str, Any]:
    """The zones of a region. Empty for an unknown one."""
    return {"id": "zones", "project": "my-project", "names": ZONES if args.get("region") == "us-west1" else []}


def machine_types(args: Mapping[str, Any]) -> dict[str, Any]:
    """Machine types of a zone, only those that the filter names."""
    wanted = args.get("filter")
    return {
        "id": "types",
        "project": "my-project",
        "zone": args["zone"],
        "filter": wanted,
        "machineTypes": [
            {
                "name": name,
                "guestCpus": cpus,
                "memoryMb": memory,
                "architecture": architecture,
                "isSharedCpus": shared,
                "accelerators": [{"guestAcceleratorType": ACCELERATORS[name], "guestAcceleratorCount": 1}]
                if name in ACCELERATORS
                else [],
                "bundledLocalSsds": [],
                "deprecateds": [],
                "description": "",
                "maximumPersistentDisks": 128,
                "maximumPersistentDisksSizeGb": 1,
                "selfLink": "",
            }
            for name, (cpus, memory, architecture, shared, where) in MACHINE_TYPES.items()
            if args["zone"] in where and (not wanted or f'"{name}"' in wanted)
        ],
    }


COMPUTE, NETWORKING, CLUSTERS, FILES = "6F81-5844-456A", "E505-1604-58F8", "CCD8-9BF1-090E", "D97E-AB26-5D95"


def sku(
    description: str, price: float, unit: str = "h", regions: tuple[str, ...] = ("us-west1",), usage: str = "OnDemand"
) -> dict[str, Any]:
    """A SKU of the Cloud Billing Catalog, of which only the asked fields are present."""
    rate = {"startUsageAmount": 0, "unitPrice": {"currencyCode": "USD", "units": "0", "nanos": round(price * 1e9)}}
    return {
        "description": description,
        "category": {"usageType": usage},
        "serviceRegions": list(regions),
        "pricingInfo": [{"pricingExpression": {"usageUnit": unit, "tieredRates": [rate]}}],
    }


CATALOG: dict[str, list[dict[str, Any]]] = {
    COMPUTE: [
        sku("E2 Instance Core running in Americas", 0.02, regions=("us-central1", "us-west1")),
        sku("E2 Instance Ram running in Americas", 0.002, "GiBy.h", ("us-central1", "us-west1")),
        sku("E2 Instance Core running in Belgium", 9, regions=("europe-west1",)),
        sku("Spot Preemptible E2 Instance Core running in Americas", 0.005, usage="Preemptible"),
        sku("Spot Preemptible E2 Instance Ram running in Americas", 0.0005, "GiBy.h", usage="Preemptible"),
        sku("Commitment v1: E2 Cpu in Americas for 1 Year", 0.01, usage="Commit1Yr"),
        sku("N4 Instance Core running in Oregon", 0.03),
        sku("N4 Instance Ram running in Oregon", 0.003, "GiBy.h"),
        sku("C3 Instance Core running in Oregon", 0.03),
        sku("C3 Instance Ram running in Oregon", 0.003, "GiBy.h"),
        sku("Balanced PD Capacity", 0.073, "GiBy.mo"),
        sku("Regional Balanced PD Capacity", 0.146, "GiBy.mo"),
        sku("Hyperdisk Balanced Capacity in Oregon", 0.0365, "GiBy.mo"),
        sku("Network Load Balancing: Forwarding Rule Minimum Service Charge in Oregon", 0.025),
    ],
    NETWORKING: [
        sku("Networking Cloud Nat Gateway Uptime", 0.001, regions=("global",)),
        sku("Networking Cloud NAT IP Usage", 0.005, regions=("global",)),
    ],
    CLUSTERS: [
        sku("Regional Kubernetes Clusters", 0.1, regions=("global",)),
        sku("Zonal Kubernetes Clusters", 0.09, regions=("global",)),
    ],
    FILES: [sku("Filestore Capacity Basic HDD (Standard) Oregon", 0.146, "GiBy.mo")],
}
"""Invented round figures by service, because the tests are about their use."""


def catalog_page(url: str, _project: str, _token: str) -> dict[str, Any]:
    """A page of a service's price list. Each service has two pages."""
    parts = urllib.parse.urlsplit(url)
    listed = CATALOG[parts.path.split("/")[3]]
    if "pageToken" in urllib.parse.parse_qs(parts.query):
        return {"skus": listed[1:]}
    return {"skus": listed[:1], "nextPageToken": "next"}


CONTAINER = "container.googleapis.com"
CLUSTERS_PATH, CONFIG_PATH = "/v1/projects/my-project/locations/-/clusters", "/serverConfig"
VALID_VERSIONS = ["1.36.0-gke.3302004", "1.35.5-gke.1163012", "1.35.2-gke.1842000", "1.34.8-gke.1000000"]
STREAMING_PATH = "/v1/projects/my-project/services/containerfilesystem.googleapis.com"


Fetch = Callable[[str, str, str], dict[str, Any]]


def kubernetes_engine(*clusters: Mapping[str, Any], streaming: bool = False) -> Fetch:
    """The Kubernetes Engine API of a project with these clusters, beside the price list and the enabled APIs."""

    def answer(url: str, project: str, token: str) -> dict[str, Any]:
        parts = urllib.parse.urlsplit(url)
        if parts.netloc == "serviceusage.googleapis.com":
            assert parts.path.endswith(STREAMING_PATH.removeprefix("/v1/projects/my-project"))
            return {"state": "ENABLED" if streaming else "DISABLED"}
        if parts.netloc != CONTAINER:
            return catalog_page(url, project, token)
        if parts.path == CLUSTERS_PATH:
            return {"clusters": list(clusters)} if clusters else {}
        if parts.path.endswith(CONFIG_PATH):
            rapid = {"channel": "RAPID", "validVersions": ["1.37.0-gke.100", *VALID_VERSIONS]}
            return {"channels": [rapid, {"channel": "REGULAR", "validVersions": VALID_VERSIONS}]}
        raise AssertionError(url)

    return answer


def beside_prices(prices: Fetch) -> Fetch:
    """Another price list beside Google's other answers."""
    rest = kubernetes_engine()
    return lambda url, *more: prices(url, *more) if "//cloudbilling." in url else rest(url, *more)


def cluster(master: str, *nodes: str, stack: str = "team", status: str = "RUNNING") -> dict[str, Any]:
    """A cluster as the API reports it. nodes: version of each pool; the control plane's without any."""
    return {
        "resourceLabels": {"app": "future-kubernetes", "stack": stack},
        "status": status,
        "currentMasterVersion": master,
        "nodePools": [{"version": version} for version in nodes or (master,)],
    }


def no_quota(_args: Mapping[str, Any]) -> dict[str, Any]:
    """A project whose quotas this user may not see."""
    raise PermissionError("403 cloudquotas.googleapis.com is not enabled")


BUCKETS = {"team-data": 123456789, "results": 123456789, "of-others": 987654321}
"""The number of the project that has each bucket."""


def bucket(args: Mapping[str, Any]) -> dict[str, Any]:
    """A bucket, or Google's refusal."""
    name = args["name"]
    if name.startswith("hidden"):
        raise PermissionError(
            "googleapi: Error 403: me does not have storage.buckets.get access to the Google Cloud Storage bucket. "
            "Permission 'storage.buckets.get' denied on resource (or it may not exist)., forbidden"
        )
    if name not in BUCKETS:
        raise PermissionError("googleapi: Error 404: The specified bucket does not exist., notFound")
    return {"id": name, "name": name, "projectNumber": BUCKETS[name]}


HOME = "future-team-home-f5706ce9f2"
"""The name of the home's disk of stack `team`, and the beginning of its snapshots' names."""


def no_disk(args: Mapping[str, Any]) -> dict[str, Any]:
    """A project that has no such disk."""
    raise PermissionError(f"projects/my-project/zones/{args['zone']}/disks/{args['name']} not found")


def no_snapshot(args: Mapping[str, Any]) -> dict[str, Any]:
    """A project without a snapshot of this home. The provider fails only for a filter."""
    if "name" in args:
        return {"id": "-", "name": args["name"], "project": "my-project"}
    raise PermissionError("your filter has returned 0 snapshot(s). Please refine your filter or set most_recent")


def a_snapshot(gib: int = 10) -> Answer:
    """A project with a snapshot of this home, by any name that is asked for."""

    def answer(args: Mapping[str, Any]) -> dict[str, Any]:
        name = args.get("name") or f"{HOME}-20261128-170000"
        return {"id": name, "name": name, "diskSizeGb": gib, "creationTimestamp": "2026-11-28T09:00:00.000-08:00"}

    return answer


def a_disk(zone: str, gib: int) -> Answer:
    """A project in which the home has a disk."""

    def answer(args: Mapping[str, Any]) -> dict[str, Any]:
        if args["zone"] != zone:
            return no_disk(args)
        return {"id": args["name"], "name": args["name"], "zone": zone, "size": gib}

    return answer


GET_DISK, GET_SNAPSHOT = "gcp:compute/getDisk:getDisk", "gcp:compute/getSnapshot:getSnapshot"

ANSWERS: dict[str, Answer] = {
    GET_DISK: no_disk,
    GET_SNAPSHOT: no_snapshot,
    "gcp:compute/getZones:getZones": zones,
    "gcp:compute/getMachineTypes:getMachineTypes": machine_types,
    "gcp:cloudquota/getSQuotaInfo:getSQuotaInfo": no_quota,
    "gcp:storage/getBucket:getBucket": bucket,
    "gcp:organizations/getProject:getProject": lambda args: {
        "id": f"projects/{args['projectId']}",
        "projectId": args["projectId"],
        "number": "123456789",
        "billingAccount": "012345-6789AB-CDEF01",
    },
    "gcp:organizations/getBillingAccount:getBillingAccount": lambda args: {
        "id": args["billingAccount"],
        "billingAccount": args["billingAccount"],
        "open": True,
        "projectIds": [],
    },
    "gcp:organizations/getClientConfig:getClientConfig": lambda _args: {
        "id": "client",
        "accessToken": "short-lived-token",
        "project": "my-project",
        "region": "",
        "zone": "",
        "defaultLabels": {},
    },
}


def computed(type_: str, name: str, inputs: dict[str, Any]) -> dict[str, Any]:
    """Outputs of a resource that Google would compute."""
    state: dict[str, Any] = {"name": inputs.get("name", f"{name}-{DRAWN}")}
    if type_ == "gcp:serviceaccount/account:Account":
        email = f"{inputs['accountId']}@my-project.iam.gserviceaccount.com"
        state |= {"email": email, "member": f"serviceAccount:{email}"}
    if type_ == "gcp:container/cluster:Cluster":
        state |= {
            "endpoint": "198.51.100.7",
            "masterVersion": f"{inputs.get('minMasterVersion', '1.35')}.2-gke.1842000",
            "controlPlaneEndpointsConfig": {
                **inputs.get("controlPlaneEndpointsConfig", {}),
                "dnsEndpointConfig": {"allowExternalTraffic": True, "endpoint": "gke-0a1b.us-west1.gke.goog"},
            },
            "masterAuth": {"clusterCaCertificate": "Q0E=", **inputs.get("masterAuth", {})},
            "id": f"projects/my-project/locations/{inputs['location']}/clusters/{name}-{DRAWN}",
        }
    if type_ == "gcp:filestore/instance:Instance":
        state["networks"] = [{**inputs["networks"][0], "ipAddresses": ["10.20.0.2"]}]
    if type_ == "docker-build:index:Image":
        state |= {"ref": "us-west1-docker.pkg.dev/my-project/r/future-kubernetes@sha256:" + "a" * 64, "digest": "a"}
    if type_ == "gcp:compute/address:Address":
        state["address"] = "198.51.100.9"
    return state


PROGRAM = MockedProgram(GKE, ANSWERS, computed, "gke-team")
gke, team, refused = PROGRAM.run, PROGRAM.team, PROGRAM.refused
