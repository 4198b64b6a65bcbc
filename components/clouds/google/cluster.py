"""Google Kubernetes Engine: network, cluster, two node pools, registry and storage classes for one stack.

Left alone: the project, its billing and which APIs it has switched on (docs/gke.md), and anything in a given `network`.
Physical names that Pulumi draws carry a random suffix, so that two stacks of one name can share a project.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_gcp as gcp
import pulumi_kubernetes as kubernetes

from components.clouds import checks as cloud
from components.clouds import sizing
from components.clouds.base import WORKER_NODE_LABEL, WORKER_TAINT, ImageRegistry
from components.clouds.google import compute
from components.clouds.google.preflight import Site, boot_disk, check_quota, check_system, find_site, size_workers
from components.clouds.google.settings import GkeSettings
from components.clouds.managed import CloudCluster, CloudClusterArgs, common_args
from components.settings.names import short_name

NODE_RANGE, POD_RANGE, SERVICE_RANGE = "10.0.0.0/20", "10.4.0.0/14", "10.8.0.0/20"
"""Of the stack's own network. A node takes a /24 of the pods' range, which gives 1,024 nodes."""

IAP_RANGE = "35.235.240.0/20"
"""Where `gcloud compute ssh --tunnel-through-iap` comes from (https://cloud.google.com/iap/docs/using-tcp-forwarding)."""


@dataclass(frozen=True, kw_only=True)
class GkeClusterArgs(CloudClusterArgs):
    """What a GKE cluster is made from."""

    project: str
    subnet: str | None = None

    @classmethod
    def from_settings(cls, settings: GkeSettings) -> GkeClusterArgs:
        """The args that `settings` ask for."""
        return cls(
            **common_args(settings),
            project=settings.project,
            subnet=settings.subnets[0] if settings.subnets else None,
        )


class GkeCluster(CloudCluster):
    """A private, VPC-native GKE cluster with a system pool and a pool of tainted nodes for workers."""

    def __init__(self, name: str, settings: GkeSettings, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("future-kubernetes:index:GkeCluster", name, None, opts)
        args = GkeClusterArgs.from_settings(settings)
        cloud.require_tool(
            "gke-gcloud-auth-plugin",
            "kubectl and Pulumi get their credentials for GKE from it",
            "gcloud components install gke-gcloud-auth-plugin",
        )
        self.name = name
        self.args = args
        self.labels = cloud.common_labels(args.stack, args.labels)
        self.google = gcp.Provider(
            f"{name}-google",
            project=args.project,
            region=args.region,
            default_labels=self.labels,
            opts=pulumi.ResourceOptions(parent=self),
        )

        site = find_site(args, pulumi.InvokeOptions(provider=self.google))
        pool = size_workers(args, site, pulumi.InvokeOptions(provider=self.google))
        check_system(args, site)
        check_quota(args, pool, site, pulumi.InvokeOptions(provider=self.google))
        cloud.warn_if_open(args.authorized_networks, self)

        network, subnet, unique, ways_out = self._network()
        identity, rights = self._node_identity(unique)
        self.registry, pull_rights = self._registry(unique, identity)
        cluster = self._cluster(network, subnet, identity)
        system = self._system_pool(cluster, identity, site, [*rights, *pull_rights])
        workers = self._worker_pool(cluster, identity, site, pool, [*rights, *pull_rights])

        connection = pulumi.Output.all(cluster.name, cluster.endpoint, cluster.master_auth.cluster_ca_certificate)
        leftovers = self._connect(
            name, connection.apply(lambda parts: kubeconfig(*parts)), cluster.id, [cluster, system, workers, *ways_out]
        )
        disks = self._disk_class()
        self.home_storage_class = disks.metadata["name"]
        ready = [system, workers, leftovers, disks]
        if args.shared_gib:
            volume = self._shared_volume(network, site)
            ready.append(volume)
            self.shared_storage_class = volume.spec["storage_class_name"]
        self._hand_over(name, args, pool, system, ready)
        location = args.zone or args.region
        self.kubeconfig_command = pulumi.Output.concat(
            "gcloud container clusters get-credentials ",
            cluster.name,
            f" --location {location} --project {args.project}",
        )
        # The context that get-credentials makes, so that two stacks are never taken for one another.
        self.kubectl = pulumi.Output.concat(f"kubectl --context gke_{args.project}_{location}_", cluster.name)
        self.node_shell = pulumi.Output.concat(
            'gcloud compute ssh "$(',
            self.kubectl,
            f" get nodes --selector topology.kubernetes.io/zone={site.system_zone} --output name | head -n 1"
            f' | cut -d/ -f2)" --project {args.project} --zone {site.system_zone} --tunnel-through-iap',
        )
        # The price list (Cloud Billing Catalog) has no data source in the provider: unknown rather than invented.
        self.hourly_cost = None
        self.register_outputs({"kubeconfigCommand": self.kubeconfig_command, "nodes": self.nodes})

    def _opts(self, depends_on: Sequence[pulumi.Resource] = (), **more: object) -> pulumi.ResourceOptions:
        """Options of a child on Google's side."""
        options = pulumi.ResourceOptions(parent=self, provider=self.google, depends_on=list(depends_on))
        return pulumi.ResourceOptions.merge(options, pulumi.ResourceOptions(**more))  # type: ignore[arg-type]

    def _network(
        self,
    ) -> tuple[pulumi.Input[str], pulumi.Input[str], pulumi.Output[str], list[pulumi.Resource]]:
        """Network, subnetwork, a suffix that no other stack has, and what nodes need before they can reach anything."""
        args = self.args
        if args.network and args.subnet:
            # No name is drawn here, so the suffix is what tells this stack from every other of the same Pulumi account.
            owner = f"{pulumi.get_organization()}/{pulumi.get_project()}/{args.stack}/{args.subnet}"
            digest = hashlib.sha256(owner.encode()).hexdigest()[:7]
            return args.network, args.subnet, pulumi.Output.from_input(digest), []
        network = compute.Network(
            f"{self.name}-network", self._opts(), autoCreateSubnetworks=False, routingMode="REGIONAL"
        )
        subnet = compute.Subnetwork(
            f"{self.name}-nodes",
            self._opts(),
            network=network.id,
            region=args.region,
            ipCidrRange=NODE_RANGE,
            privateIpGoogleAccess=True,
            secondaryIpRanges=[
                {"rangeName": "pods", "ipCidrRange": POD_RANGE},
                {"rangeName": "services", "ipCidrRange": SERVICE_RANGE},
            ],
        )
        router = compute.Router(f"{self.name}-router", self._opts(), network=network.id, region=args.region)
        nat = compute.RouterNat(
            f"{self.name}-nat",
            self._opts(),
            router=router.name,
            region=args.region,
            natIpAllocateOption="AUTO_ONLY",
            sourceSubnetworkIpRangesToNat="LIST_OF_SUBNETWORKS",
            subnetworks=[{"name": subnet.id, "sourceIpRangesToNats": ["ALL_IP_RANGES"]}],
        )
        ssh = compute.Firewall(
            f"{self.name}-iap-ssh",
            self._opts(),
            network=network.id,
            description="A shell on a node, through Identity-Aware Proxy alone",
            direction="INGRESS",
            sourceRanges=[IAP_RANGE],
            allows=[{"protocol": "tcp", "ports": ["22"]}],
        )
        # Pulumi drew the network's name; its random end makes names where Pulumi draws none.
        return network.id, subnet.id, network.name.apply(lambda drawn: drawn[-7:].lstrip("-")), [nat, ssh]

    def _node_identity(self, unique: pulumi.Output[str]) -> tuple[gcp.serviceaccount.Account, list[pulumi.Resource]]:
        """The service account that nodes run as, with the role that GKE documents as the least: logs and metrics."""
        account = gcp.serviceaccount.Account(
            f"{self.name}-nodes-identity",
            account_id=unique.apply(lambda suffix: f"{short_name(self.name, 22)}-{suffix}"),
            display_name=f"Nodes of {self.name}",
            opts=self._opts(),
        )
        # https://cloud.google.com/kubernetes-engine/docs/how-to/hardening-your-cluster#use_least_privilege_sa
        role = gcp.projects.IAMMember(
            f"{self.name}-nodes-role",
            project=self.args.project,
            role="roles/container.defaultNodeServiceAccount",
            member=account.member,
            opts=self._opts(),
        )
        return account, [role]

    def _registry(
        self, unique: pulumi.Output[str], identity: gcp.serviceaccount.Account
    ) -> tuple[ImageRegistry | None, list[pulumi.Resource]]:
        """A repository in Artifact Registry for the image, and the nodes' right to pull from it alone."""
        if not self.args.makes_image:
            return None, []
        args = self.args
        repository = gcp.artifactregistry.Repository(
            f"{self.name}-images",
            repository_id=unique.apply(lambda suffix: f"{short_name(self.name, 50)}-{suffix}"),
            location=args.region,
            format="DOCKER",
            description=f"Image of {self.name}",
            labels=self.labels,
            # INHERITED scans where the project has Container Scanning switched on, which is billed by the image.
            vulnerability_scanning_config={"enablement_config": "INHERITED"},
            cleanup_policies=[
                {"id": "keep-recent", "action": "KEEP", "most_recent_versions": {"keep_count": 10}},
                {"id": "delete-old", "action": "DELETE", "condition": {"older_than": "2592000s"}},
            ],
            opts=self._opts(),
        )
        pull = gcp.artifactregistry.RepositoryIamMember(
            f"{self.name}-nodes-pull",
            location=repository.location,
            repository=repository.name,
            role="roles/artifactregistry.reader",
            member=identity.member,
            opts=self._opts(),
        )
        server = f"{args.region}-docker.pkg.dev"
        client = gcp.organizations.get_client_config_output(opts=pulumi.InvokeOutputOptions(provider=self.google))
        return (
            ImageRegistry(
                repository=repository.repository_id.apply(
                    lambda given: f"{server}/{args.project}/{given}/future-kubernetes"
                ),
                server=server,
                username="oauth2accesstoken",
                password=client.access_token,
            ),
            [pull],
        )

    def _cluster(
        self,
        network: pulumi.Input[str],
        subnet: pulumi.Input[str],
        identity: gcp.serviceaccount.Account,
    ) -> gcp.container.Cluster:
        """The control plane, without nodes."""
        args = self.args
        authorized = [
            gcp.container.ClusterMasterAuthorizedNetworksConfigCidrBlockArgs(
                cidr_block=block, display_name="authorizedNetworks"
            )
            for block in args.authorized_networks
        ]
        return gcp.container.Cluster(
            # A cluster's name has at most 40 characters, eight of which Pulumi draws.
            short_name(self.name, 32),
            location=args.zone or args.region,
            network=network,
            subnetwork=subnet,
            networking_mode="VPC_NATIVE",
            ip_allocation_policy=gcp.container.ClusterIpAllocationPolicyArgs(
                # In a given subnetwork GKE makes the ranges itself.
                cluster_secondary_range_name=None if args.network else "pods",
                services_secondary_range_name=None if args.network else "services",
            ),
            # Dataplane V2 enforces network policies, which the chart relies on.
            datapath_provider="ADVANCED_DATAPATH",
            private_cluster_config={"enable_private_nodes": True, "enable_private_endpoint": False},
            master_authorized_networks_config=gcp.container.ClusterMasterAuthorizedNetworksConfigArgs(
                cidr_blocks=authorized, gcp_public_cidrs_access_enabled=False
            )
            if authorized
            else None,
            release_channel={"channel": "REGULAR"},
            workload_identity_config={"workload_pool": f"{args.project}.svc.id.goog"},
            enable_shielded_nodes=True,
            enable_legacy_abac=False,
            master_auth={"client_certificate_config": {"issue_client_certificate": False}},
            remove_default_node_pool=True,
            initial_node_count=1,
            # The default pool lives for a minute, but without this it would run as the project's default account,
            # which is an editor, or is switched off.
            node_config={
                "service_account": identity.email,
                "oauth_scopes": ["https://www.googleapis.com/auth/cloud-platform"],
                "shielded_instance_config": {"enable_secure_boot": True, "enable_integrity_monitoring": True},
            },
            node_pool_defaults={"node_config_defaults": {"insecure_kubelet_readonly_port_enabled": "FALSE"}},
            addons_config={
                "gce_persistent_disk_csi_driver_config": {"enabled": True},
                "gcp_filestore_csi_driver_config": {"enabled": args.shared_gib > 0},
            },
            cluster_autoscaling={"enabled": False, "autoscaling_profile": "OPTIMIZE_UTILIZATION"},
            logging_config={"enable_components": ["SYSTEM_COMPONENTS", "WORKLOADS"]},
            # Managed Prometheus would put a collector on every worker's node.
            monitoring_config={"enable_components": ["SYSTEM_COMPONENTS"], "managed_prometheus": {"enabled": False}},
            cost_management_config={"enabled": True},
            resource_labels=self.labels,
            # Pulumi's own `protect` guards a cluster; with this on, `pulumi destroy` needs an update before it.
            deletion_protection=False,
            opts=self._opts(
                # GKE shows the default pool's settings here, and after its removal those of another pool.
                ignore_changes=["nodeConfig", "initialNodeCount", "nodeVersion"],
            ),
        )

    def _node_config(
        self,
        identity: gcp.serviceaccount.Account,
        machine_type: str,
        role: str,
        *,
        spot: bool = False,
        tainted: bool = False,
    ) -> gcp.container.NodePoolNodeConfigArgs:
        """What both pools have in common: least identity, shielded, metadata only through workload identity."""
        taint = {"key": WORKER_TAINT["key"], "value": WORKER_TAINT["value"], "effect": "NO_SCHEDULE"}
        return gcp.container.NodePoolNodeConfigArgs(
            machine_type=machine_type,
            spot=spot,
            image_type="COS_CONTAINERD",
            disk_type=boot_disk(machine_type),
            disk_size_gb=50,
            service_account=identity.email,
            # What a node may do is decided by its service account's roles; a scope would cut it a second time.
            oauth_scopes=["https://www.googleapis.com/auth/cloud-platform"],
            labels={WORKER_NODE_LABEL: role},
            taints=[gcp.container.NodePoolNodeConfigTaintArgs(**taint)] if tainted else None,
            resource_labels=self.labels,
            metadata={"disable-legacy-endpoints": "true"},
            shielded_instance_config=gcp.container.NodePoolNodeConfigShieldedInstanceConfigArgs(
                enable_secure_boot=True, enable_integrity_monitoring=True
            ),
            workload_metadata_config=gcp.container.NodePoolNodeConfigWorkloadMetadataConfigArgs(mode="GKE_METADATA"),
            kubelet_config=gcp.container.NodePoolNodeConfigKubeletConfigArgs(
                insecure_kubelet_readonly_port_enabled="FALSE"
            ),
        )

    def _system_pool(
        self,
        cluster: gcp.container.Cluster,
        identity: gcp.serviceaccount.Account,
        site: Site,
        rights: Sequence[pulumi.Resource],
    ) -> gcp.container.NodePool:
        """One small node for the scheduler and Kubernetes' own pods; a second or third when they do not fit."""
        return gcp.container.NodePool(
            f"{self.name[:24].rstrip('-')}-system",
            cluster=cluster.id,
            node_locations=[site.system_zone],
            initial_node_count=1,
            autoscaling={"total_min_node_count": 1, "total_max_node_count": 3},
            management={"auto_repair": True, "auto_upgrade": True},
            upgrade_settings={"max_surge": 1, "max_unavailable": 0},
            network_config={"enable_private_nodes": True},
            node_config=self._node_config(identity, self.args.system_machine_type, "system"),
            opts=self._opts(
                depends_on=rights,
                ignore_changes=["initialNodeCount", "nodeCount"],
                replace_on_changes=["nodeConfig.machineType"],
            ),
        )

    def _worker_pool(
        self,
        cluster: gcp.container.Cluster,
        identity: gcp.serviceaccount.Account,
        site: Site,
        pool: sizing.WorkerPool,
        rights: Sequence[pulumi.Resource],
    ) -> gcp.container.NodePool:
        """The workers' nodes. Pulumi draws the pool's name, so that a replacement stands before the old one goes."""
        args = self.args
        autoscaling = None
        if args.autoscaled:
            autoscaling = gcp.container.NodePoolAutoscalingArgs(
                total_min_node_count=args.least_nodes(pool),
                total_max_node_count=pool.max_nodes,
                location_policy="ANY" if args.spot else "BALANCED",
            )
        return gcp.container.NodePool(
            f"{self.name[:24].rstrip('-')}-workers",
            cluster=cluster.id,
            node_locations=list(site.worker_zones),
            management={"auto_repair": True, "auto_upgrade": True},
            upgrade_settings={"max_surge": 1, "max_unavailable": 0},
            network_config={"enable_private_nodes": True},
            node_config=self._node_config(identity, args.machine_type, "worker", spot=args.spot, tainted=True),
            autoscaling=autoscaling,
            # By zone; what is missing to the least is made by the autoscaler.
            initial_node_count=pool.nodes // len(site.worker_zones) if args.autoscaled else None,
            ignore_node_count_changes=True if args.autoscaled else None,
            node_count=None if args.autoscaled else pool.nodes,
            opts=self._opts(
                depends_on=rights,
                ignore_changes=["initialNodeCount", "nodeCount"] if args.autoscaled else [],
                # GKE would change the machine type node by node, in place; a new pool first keeps every worker until
                # there is room for it.
                replace_on_changes=["nodeConfig.machineType", "nodeConfig.spot"],
            ),
        )

    def _disk_class(self) -> kubernetes.storage.v1.StorageClass:
        """Disks that carry the stack's labels, which those of GKE's own classes do not."""
        return kubernetes.storage.v1.StorageClass(
            f"{self.name}-disks",
            metadata={"name": "future-disks"},
            provisioner="pd.csi.storage.gke.io",
            parameters={
                "type": "pd-balanced",
                "labels": ",".join(f"{key}={value}" for key, value in self.labels.items()),
            },
            reclaim_policy="Delete",
            volume_binding_mode="WaitForFirstConsumer",
            allow_volume_expansion=True,
            opts=pulumi.ResourceOptions(parent=self, provider=self.provider),
        )

    def _shared_volume(self, network: pulumi.Input[str], site: Site) -> kubernetes.core.v1.PersistentVolume:
        """A Filestore instance for /shared, and the volume by which Kubernetes knows it."""
        args = self.args
        instance = gcp.filestore.Instance(
            f"{self.name}-shared",
            location=site.system_zone,
            tier="BASIC_HDD",
            file_shares={"name": "shared", "capacity_gb": args.shared_gib},
            networks=[{"network": network, "modes": ["MODE_IPV4"], "connect_mode": "DIRECT_PEERING"}],
            labels=self.labels,
            opts=self._opts(),
        )
        address = instance.networks.apply(lambda networks: (networks[0].ip_addresses or [""])[0])
        return kubernetes.core.v1.PersistentVolume(
            f"{self.name}-shared",
            metadata={"name": f"{self.name}-shared"},
            spec={
                "storage_class_name": "future-shared",
                "capacity": {"storage": f"{args.shared_gib}Gi"},
                "access_modes": ["ReadWriteMany"],
                "persistent_volume_reclaim_policy": "Retain",
                # By the driver rather than plain NFS: it hands the folder to the pods' group (fsGroup).
                "csi": {
                    "driver": "filestore.csi.storage.gke.io",
                    "volume_handle": instance.name.apply(
                        lambda given: f"modeInstance/{site.system_zone}/{given}/shared"
                    ),
                    "volume_attributes": {"ip": address, "volume": "shared"},
                },
            },
            opts=pulumi.ResourceOptions(parent=self, provider=self.provider),
        )


def kubeconfig(name: str, endpoint: str, certificate: str) -> str:
    """A kubeconfig (JSON, which is YAML) that holds no credential: the plugin asks gcloud for one at each use."""
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": name,
            "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
            "clusters": [
                {
                    "name": name,
                    "cluster": {"server": f"https://{endpoint}", "certificate-authority-data": certificate},
                }
            ],
            "users": [
                {
                    "name": name,
                    "user": {
                        "exec": {
                            "apiVersion": "client.authentication.k8s.io/v1beta1",
                            "command": "gke-gcloud-auth-plugin",
                            "installHint": "gcloud components install gke-gcloud-auth-plugin",
                            "provideClusterInfo": True,
                        }
                    },
                }
            ],
        }
    )
