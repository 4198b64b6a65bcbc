"""Amazon EKS: network, cluster, addons, two node groups, registry and storage classes for one stack.

Left alone: the account, and anything in a given `network`. Physical names are drawn by Pulumi with a random suffix, so
that two stacks of one name can share an account. Control plane logs stay off: EKS would write them to a log group that
it makes itself, and that outlives the cluster.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_aws as aws
import pulumi_kubernetes as kubernetes

from components.clouds import checks as cloud
from components.clouds.aws.preflight import (
    check_quota,
    check_system,
    find_site,
    instance_filters,
    price,
    scaling_now,
    size_workers,
)
from components.clouds.aws.settings import EksSettings
from components.clouds.base import WORKER_NODE_LABEL, WORKER_TAINT, ImageRegistry
from components.clouds.managed import CloudCluster, CloudClusterArgs, common_args

VPC_RANGE = "10.0.0.0/16"

AUTOSCALER_CHART = ("cluster-autoscaler", "https://kubernetes.github.io/autoscaler", "9.59.0")
AUTOSCALER_ACCOUNT = "cluster-autoscaler"


@dataclass(frozen=True, kw_only=True)
class EksClusterArgs(CloudClusterArgs):
    """What an EKS cluster is made from. namespace: where the team's roles may work."""

    namespace: str
    subnets: Sequence[str] = ()
    public_subnets: Sequence[str] = ()
    nat_per_zone: bool = False
    team_roles: Sequence[str] = ()
    admin_roles: Sequence[str] = ()

    @classmethod
    def from_settings(cls, settings: EksSettings) -> EksClusterArgs:
        """The args that `settings` ask for."""
        return cls(
            **common_args(settings),
            namespace=settings.namespace,
            subnets=settings.subnets,
            public_subnets=settings.public_subnets,
            nat_per_zone=settings.nat_per_zone,
            team_roles=settings.team_roles,
            admin_roles=settings.admin_roles,
        )


@dataclass(frozen=True)
class Network:
    """Where nodes are. private: zone to subnet. ways_out: what nodes need to reach anything."""

    vpc: pulumi.Input[str]
    private: Mapping[str, pulumi.Input[str]]
    ways_out: Sequence[pulumi.Resource]


class EksCluster(CloudCluster):
    """An EKS cluster in private subnets, with a system node group and one of tainted nodes for workers."""

    def __init__(self, name: str, settings: EksSettings, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("future-kubernetes:index:EksCluster", name, None, opts)
        args = EksClusterArgs.from_settings(settings)
        cloud.require_tool(
            "aws",
            "kubectl and Pulumi get their credentials for EKS from it (aws eks get-token)",
            "install it as https://docs.aws.amazon.com/cli/latest/userguide/getting-started-install.html says",
        )
        self.name = name
        self.args = args
        self.tags = cloud.common_labels(args.stack, args.labels)
        self.aws = aws.Provider(
            f"{name}-aws",
            region=args.region,
            default_tags=aws.ProviderDefaultTagsArgs(tags=self.tags),
            opts=pulumi.ResourceOptions(parent=self),
        )

        asking = pulumi.InvokeOptions(provider=self.aws)
        self.site = site = find_site(args, asking)
        self.pool = pool = size_workers(args, site, asking)
        check_system(args, site)
        check_quota(args, pool, site, asking)
        cloud.warn_if_open(args.authorized_networks, self)

        network = self._network()
        self.registry = self._registry()
        cluster = self._cluster(network)
        self._access(cluster)
        before_nodes = self._addons_before_nodes(cluster)
        node_role, rights = self._node_role()
        template = self._launch_template()
        node_needs = [*before_nodes, *rights, *network.ways_out]
        system, workers = self._node_groups(cluster, network, node_role, template, node_needs)
        addons = self._addons_on_nodes(cluster, system)
        scaling = self._autoscaler_rights(cluster, workers) if args.autoscaled else []
        files = self._shared_files(cluster, network) if args.shared_gib else None

        connection = pulumi.Output.all(cluster.name, cluster.endpoint, cluster.certificate_authority["data"])
        leftovers = self._connect(
            name,
            connection.apply(lambda parts: kubeconfig(*parts, region=args.region)),
            cluster.arn,
            [cluster, system, workers, *addons, *(files[1] if files else []), *scaling],
        )
        disks = self._disk_class()
        self.home_storage_class = disks.metadata["name"]
        ready = [system, workers, *addons, leftovers, disks]
        if files:
            shared = self._shared_class(files[0])
            ready.append(shared)
            self.shared_storage_class = shared.metadata["name"]
        if args.autoscaled:
            ready.append(self._autoscaler(cluster))
        self._hand_over(name, args, pool, system, ready, load_balancer_annotations(self.tags, args.public_subnets))
        self.kubeconfig_command = cluster.name.apply(
            lambda given: f"aws eks update-kubeconfig --region {args.region} --name {given} --alias {given}"
        )
        self.kubectl = pulumi.Output.concat("kubectl --context ", cluster.name)
        self.node_shell = pulumi.Output.concat(
            f'aws ssm start-session --region {args.region} --target "$(',
            self.kubectl,
            " get nodes --output jsonpath='{.items[0].spec.providerID}' | cut -d/ -f5)\"",
        )
        self.hourly_cost = self._hourly_cost()
        self.register_outputs({"kubeconfigCommand": self.kubeconfig_command, "nodes": self.nodes})

    def _opts(self, depends_on: Sequence[pulumi.Resource] = (), **more: object) -> pulumi.ResourceOptions:
        """Options of a child on AWS's side."""
        options = pulumi.ResourceOptions(parent=self, provider=self.aws, depends_on=list(depends_on))
        return pulumi.ResourceOptions.merge(options, pulumi.ResourceOptions(**more))  # type: ignore[arg-type]

    # Network

    def _network(self) -> Network:
        """The given VPC, or one over the zones, with private subnets for nodes and public ones for gateways."""
        if self.args.network:
            return Network(self.args.network, dict(self.site.given_subnets), [])
        name, zones = self.name, self.site.network_zones
        vpc = aws.ec2.Vpc(
            f"{name}-vpc",
            cidr_block=VPC_RANGE,
            enable_dns_hostnames=True,
            enable_dns_support=True,
            tags={"Name": name},
            opts=self._opts(),
        )
        internet = aws.ec2.InternetGateway(f"{name}-internet", vpc_id=vpc.id, tags={"Name": name}, opts=self._opts())
        outwards = self._routes("public", vpc, {"gateway_id": internet.id})
        ways_out: list[pulumi.Resource] = [internet]
        public: dict[str, aws.ec2.Subnet] = {}
        for index, zone in enumerate(zones):
            public[zone] = aws.ec2.Subnet(
                f"{name}-public-{zone}",
                vpc_id=vpc.id,
                availability_zone=zone,
                cidr_block=f"10.0.{192 + index}.0/24",
                # By this tag Kubernetes finds where load balancers that face the internet go.
                tags={"Name": f"{name}-public-{zone}", "kubernetes.io/role/elb": "1"},
                opts=self._opts(),
            )
            ways_out.append(self._associate(f"public-{zone}", public[zone], outwards))
        gateways = {
            zone: self._nat(zone, public[zone], internet) for zone in (zones if self.args.nat_per_zone else zones[:1])
        }
        private: dict[str, pulumi.Input[str]] = {}
        shared = None
        for index, zone in enumerate(zones):
            subnet = aws.ec2.Subnet(
                f"{name}-private-{zone}",
                vpc_id=vpc.id,
                availability_zone=zone,
                # A /18 each: every pod has an address of the subnet.
                cidr_block=f"10.0.{64 * index}.0/18",
                map_public_ip_on_launch=False,
                tags={"Name": f"{name}-private-{zone}", "kubernetes.io/role/internal-elb": "1"},
                opts=self._opts(),
            )
            if zone in gateways and self.args.nat_per_zone:
                table = self._routes(f"private-{zone}", vpc, {"nat_gateway_id": gateways[zone].id})
            else:
                table = shared = shared or self._routes("private", vpc, {"nat_gateway_id": gateways[zones[0]].id})
            ways_out.append(self._associate(f"private-{zone}", subnet, table))
            private[zone] = subnet.id
        return Network(vpc.id, private, [*ways_out, *gateways.values()])

    def _routes(self, part: str, vpc: aws.ec2.Vpc, target: Mapping[str, pulumi.Output[str]]) -> aws.ec2.RouteTable:
        """A route table whose traffic for the outside goes to `target`."""
        return aws.ec2.RouteTable(
            f"{self.name}-{part}",
            vpc_id=vpc.id,
            routes=[aws.ec2.RouteTableRouteArgs(cidr_block="0.0.0.0/0", **target)],
            tags={"Name": f"{self.name}-{part}"},
            opts=self._opts(),
        )

    def _associate(self, part: str, subnet: aws.ec2.Subnet, table: aws.ec2.RouteTable) -> aws.ec2.RouteTableAssociation:
        return aws.ec2.RouteTableAssociation(
            f"{self.name}-{part}", subnet_id=subnet.id, route_table_id=table.id, opts=self._opts()
        )

    def _nat(self, zone: str, subnet: aws.ec2.Subnet, internet: aws.ec2.InternetGateway) -> aws.ec2.NatGateway:
        """The way out of the private subnets, with its address."""
        address = aws.ec2.Eip(
            f"{self.name}-nat-{zone}",
            domain="vpc",
            tags={"Name": f"{self.name}-nat-{zone}"},
            opts=self._opts(depends_on=[internet]),
        )
        return aws.ec2.NatGateway(
            f"{self.name}-nat-{zone}",
            allocation_id=address.id,
            subnet_id=subnet.id,
            tags={"Name": f"{self.name}-{zone}"},
            opts=self._opts(depends_on=[internet]),
        )

    # Registry

    def _registry(self) -> ImageRegistry | None:
        """A repository in ECR, scanned on push, that forgets what no tag holds, and goes with its images on destroy."""
        if not self.args.makes_image:
            return None
        repository = aws.ecr.Repository(
            f"{self.name}-images",
            force_delete=True,
            image_scanning_configuration={"scan_on_push": True},
            encryption_configurations=[{"encryption_type": "AES256"}],
            opts=self._opts(),
        )
        aws.ecr.LifecyclePolicy(
            f"{self.name}-images",
            repository=repository.name,
            policy=json.dumps(
                {
                    "rules": [
                        {
                            "rulePriority": 1,
                            "description": "What a newer image took the tag from, after a month",
                            "selection": {
                                "tagStatus": "untagged",
                                "countType": "sinceImagePushed",
                                "countUnit": "days",
                                "countNumber": 30,
                            },
                            "action": {"type": "expire"},
                        }
                    ]
                }
            ),
            opts=self._opts(),
        )
        token = aws.ecr.get_authorization_token_output(
            registry_id=repository.registry_id, opts=pulumi.InvokeOutputOptions(provider=self.aws)
        )
        return ImageRegistry(
            repository=repository.repository_url,
            server=repository.repository_url.apply(lambda url: url.split("/")[0]),
            username=token.user_name,
            password=token.password,
            oci_cache=True,
        )

    # Control plane

    def _role(self, part: str, service: str, policies: Mapping[str, str]) -> tuple[aws.iam.Role, list[pulumi.Resource]]:
        """A role that `service` alone may take, with AWS's own policies (short name to path of the policy)."""
        actions = ["sts:AssumeRole"]
        if service == "pods.eks.amazonaws.com":
            actions.append("sts:TagSession")
        role = aws.iam.Role(
            f"{self.name}-{part}",
            assume_role_policy=policy({"Action": actions, "Principal": {"Service": service}}),
            opts=self._opts(),
        )
        attached: list[pulumi.Resource] = [
            aws.iam.RolePolicyAttachment(
                f"{self.name}-{part}-{short}",
                role=role.name,
                policy_arn=f"arn:{self.site.partition}:iam::aws:policy/{path}",
                opts=self._opts(),
            )
            for short, path in policies.items()
        ]
        return role, attached

    def _cluster(self, network: Network) -> aws.eks.Cluster:
        """The control plane, without nodes and without addons of its own choosing."""
        role, attached = self._role("control-plane", "eks.amazonaws.com", {"cluster": "AmazonEKSClusterPolicy"})
        return aws.eks.Cluster(
            self.name,
            role_arn=role.arn,
            vpc_config=aws.eks.ClusterVpcConfigArgs(
                subnet_ids=list(network.private.values()),
                endpoint_private_access=True,
                endpoint_public_access=True,
                public_access_cidrs=list(self.args.authorized_networks) or None,
            ),
            access_config=aws.eks.ClusterAccessConfigArgs(
                authentication_mode="API",
                # Who creates the cluster administers it; others by adminRoles. Named here, the creator would be whoever
                # ran the last update, who would so take the first one's place.
                bootstrap_cluster_creator_admin_permissions=True,
            ),
            bootstrap_self_managed_addons=False,
            # Extended support of an old version costs several times as much; this upgrades instead.
            upgrade_policy=aws.eks.ClusterUpgradePolicyArgs(support_type="STANDARD"),
            deletion_protection=False,
            opts=self._opts(depends_on=attached),
        )

    def _access(self, cluster: aws.eks.Cluster) -> None:
        """Access entries: administrators of the cluster, and the team, who work in the stack's namespace alone."""
        team = aws.eks.AccessPolicyAssociationAccessScopeArgs(type="namespace", namespaces=[self.args.namespace])
        admin = aws.eks.AccessPolicyAssociationAccessScopeArgs(type="cluster")
        for what, arns, named, scope in (
            ("team", self.args.team_roles, "AmazonEKSEditPolicy", team),
            ("admin", self.args.admin_roles, "AmazonEKSClusterAdminPolicy", admin),
        ):
            for arn in arns:
                short = arn.rsplit("/", 1)[-1]
                entry = aws.eks.AccessEntry(
                    f"{self.name}-{what}-{short}", cluster_name=cluster.name, principal_arn=arn, opts=self._opts()
                )
                aws.eks.AccessPolicyAssociation(
                    f"{self.name}-{what}-{short}",
                    cluster_name=cluster.name,
                    principal_arn=entry.principal_arn,
                    policy_arn=f"arn:{self.site.partition}:eks::aws:cluster-access-policy/{named}",
                    access_scope=scope,
                    opts=self._opts(),
                )

    # Addons

    def _addon(
        self,
        cluster: aws.eks.Cluster,
        addon: str,
        *,
        values: Mapping[str, Any] | None = None,
        identity: tuple[str, aws.iam.Role] | None = None,
        depends_on: Sequence[pulumi.Resource] = (),
    ) -> aws.eks.Addon:
        """An addon in the version that AWS gives for the cluster's version. identity: service account and its role."""
        version = aws.eks.get_addon_version_output(
            addon_name=addon,
            kubernetes_version=cluster.version,
            opts=pulumi.InvokeOutputOptions(provider=self.aws),
        )
        return aws.eks.Addon(
            f"{self.name}-{addon}",
            cluster_name=cluster.name,
            addon_name=addon,
            addon_version=version.version,
            configuration_values=json.dumps(values, sort_keys=True) if values else None,
            pod_identity_associations=[
                aws.eks.AddonPodIdentityAssociationArgs(service_account=identity[0], role_arn=identity[1].arn)
            ]
            if identity
            else None,
            resolve_conflicts_on_create="OVERWRITE",
            resolve_conflicts_on_update="OVERWRITE",
            opts=self._opts(depends_on=depends_on),
        )

    def _addons_before_nodes(self, cluster: aws.eks.Cluster) -> list[pulumi.Resource]:
        """What a node needs to become ready; removed after the nodes, or their network interfaces would stay behind."""
        role, attached = self._role("network", "pods.eks.amazonaws.com", {"cni": "AmazonEKS_CNI_Policy"})
        agent = self._addon(cluster, "eks-pod-identity-agent")
        network = self._addon(
            cluster,
            "vpc-cni",
            # The chart's network policies are enforced only with this on.
            values={"enableNetworkPolicy": "true"},
            identity=("aws-node", role),
            depends_on=[*attached, agent],
        )
        return [agent, network, self._addon(cluster, "kube-proxy")]

    def _addons_on_nodes(self, cluster: aws.eks.Cluster, system: pulumi.Resource) -> list[pulumi.Resource]:
        """What runs as pods, on the system node: name service, disk driver, metrics, file driver."""
        disks, disk_rights = self._role(
            "disks", "pods.eks.amazonaws.com", {"ebs": "service-role/AmazonEBSCSIDriverPolicy"}
        )
        addons: list[pulumi.Resource] = [
            self._addon(cluster, "coredns", depends_on=[system]),
            self._addon(cluster, "metrics-server", depends_on=[system]),
            self._addon(
                cluster,
                "aws-ebs-csi-driver",
                values={"controller": {"extraVolumeTags": self.tags}},
                identity=("ebs-csi-controller-sa", disks),
                depends_on=[system, *disk_rights],
            ),
        ]
        if self.args.shared_gib:
            files, file_rights = self._role(
                "files", "pods.eks.amazonaws.com", {"efs": "service-role/AmazonEFSCSIDriverPolicy"}
            )
            addons.append(
                self._addon(
                    cluster,
                    "aws-efs-csi-driver",
                    identity=("efs-csi-controller-sa", files),
                    depends_on=[system, *file_rights],
                )
            )
        return addons

    # Nodes

    def _node_role(self) -> tuple[aws.iam.Role, list[pulumi.Resource]]:
        """What a node itself may do: join, pull images, and let itself be reached by Session Manager."""
        return self._role(
            "nodes",
            "ec2.amazonaws.com",
            {
                "join": "AmazonEKSWorkerNodePolicy",
                "pull": "AmazonEC2ContainerRegistryPullOnly",
                "shell": "AmazonSSMManagedInstanceCore",
            },
        )

    def _launch_template(self) -> aws.ec2.LaunchTemplate:
        """Nodes with an encrypted disk, and with the newer metadata service alone, out of reach of pods."""
        return aws.ec2.LaunchTemplate(
            f"{self.name}-nodes",
            update_default_version=True,
            metadata_options=aws.ec2.LaunchTemplateMetadataOptionsArgs(
                http_endpoint="enabled",
                http_tokens="required",
                # One hop is the node itself; a pod, which is two away, cannot take the node's role.
                http_put_response_hop_limit=1,
            ),
            block_device_mappings=[
                aws.ec2.LaunchTemplateBlockDeviceMappingArgs(
                    device_name="/dev/xvda",
                    ebs=aws.ec2.LaunchTemplateBlockDeviceMappingEbsArgs(
                        volume_type="gp3", volume_size=50, encrypted="true", delete_on_termination="true"
                    ),
                )
            ],
            # Default tags do not reach what EC2 makes from a template.
            tag_specifications=[
                aws.ec2.LaunchTemplateTagSpecificationArgs(resource_type=kind, tags={"Name": self.name, **self.tags})
                for kind in ("instance", "volume", "network-interface")
            ],
            opts=self._opts(),
        )

    def _node_groups(
        self,
        cluster: aws.eks.Cluster,
        network: Network,
        role: aws.iam.Role,
        template: aws.ec2.LaunchTemplate,
        needs: Sequence[pulumi.Resource],
    ) -> tuple[aws.eks.NodeGroup, aws.eks.NodeGroup]:
        """The system's node and the workers' nodes.

        Pulumi draws the groups' names, so that a replacement stands before the old one goes.
        """
        args, site, pool = self.args, self.site, self.pool
        alike: dict[str, Any] = {
            "cluster_name": cluster.name,
            "node_role_arn": role.arn,
            "ami_type": "AL2023_x86_64_STANDARD",
            "launch_template": aws.eks.NodeGroupLaunchTemplateArgs(
                id=template.id, version=template.latest_version.apply(str)
            ),
            # Nodes that change (other labels, another disk) are drained for 15 minutes. The scheduler's budget lets
            # nobody drain it, by which the update would fail, now and at each later `pulumi up`.
            "force_update_version": True,
        }
        count_ignored = ["scalingConfig.desiredSize"] if args.autoscaled else []
        system = aws.eks.NodeGroup(
            f"{self.name}-system",
            **alike,
            # One zone, where the home's disk is.
            subnet_ids=[network.private[site.system_zone]],
            instance_types=[args.system_machine_type],
            capacity_type="ON_DEMAND",
            scaling_config=aws.eks.NodeGroupScalingConfigArgs(
                desired_size=1, min_size=1, max_size=3 if args.autoscaled else 1
            ),
            update_config=aws.eks.NodeGroupUpdateConfigArgs(max_unavailable=1),
            labels={WORKER_NODE_LABEL: "system"},
            opts=self._opts(depends_on=needs, ignore_changes=count_ignored, replace_on_changes=["instanceTypes"]),
        )
        least, most, desired = args.least_nodes(pool), pool.max_nodes, pool.nodes
        # AWS takes the three numbers in one request alone. Ignored, the number of nodes would go along as it was when
        # Pulumi last set it: away with nodes that the autoscaler has added since, or refused as less than the least.
        asking = pulumi.InvokeOptions(provider=self.aws)
        now = scaling_now(self.name, self.tags["stack"], asking) if args.autoscaled else None
        if now and (now.least, now.most) != (least, most):
            desired, count_ignored = min(max(now.desired, least), most), []
        workers = aws.eks.NodeGroup(
            f"{self.name}-workers",
            **alike,
            subnet_ids=[network.private[zone] for zone in site.worker_zones],
            instance_types=[args.machine_type],
            capacity_type="SPOT" if args.spot else "ON_DEMAND",
            scaling_config=aws.eks.NodeGroupScalingConfigArgs(desired_size=desired, min_size=least, max_size=most),
            update_config=aws.eks.NodeGroupUpdateConfigArgs(max_unavailable_percentage=33),
            labels={WORKER_NODE_LABEL: "worker"},
            taints=[
                aws.eks.NodeGroupTaintArgs(key=WORKER_TAINT["key"], value=WORKER_TAINT["value"], effect="NO_SCHEDULE")
            ],
            opts=self._opts(
                depends_on=needs,
                ignore_changes=count_ignored,
                replace_on_changes=["instanceTypes", "capacityType", "subnetIds"],
            ),
        )
        return system, workers

    # Autoscaler

    def _autoscaler_rights(self, cluster: aws.eks.Cluster, workers: aws.eks.NodeGroup) -> list[pulumi.Resource]:
        """What the autoscaler may do: look at everything, and resize this cluster's own groups."""
        role, _ = self._role("autoscaler", "pods.eks.amazonaws.com", {})
        # https://github.com/kubernetes/autoscaler/blob/master/cluster-autoscaler/cloudprovider/aws/README.md; the
        # groups that EKS makes carry this tag, and their names are not known to the policy.
        rights = aws.iam.RolePolicy(
            f"{self.name}-autoscaler",
            role=role.name,
            policy=cluster.name.apply(autoscaler_policy),
            opts=self._opts(),
        )
        identity = aws.eks.PodIdentityAssociation(
            f"{self.name}-autoscaler",
            cluster_name=cluster.name,
            namespace="kube-system",
            service_account=AUTOSCALER_ACCOUNT,
            role_arn=role.arn,
            opts=self._opts(),
        )
        group = workers.resources.apply(lambda made: first_group(made))
        template = "k8s.io/cluster-autoscaler/node-template"
        hints = [
            aws.autoscaling.Tag(
                f"{self.name}-workers-{what}",
                autoscaling_group_name=group,
                # Without nodes there is nothing else from which the autoscaler could know what a new one would be like.
                tag=aws.autoscaling.TagTagArgs(key=f"{template}/{key}", value=value, propagate_at_launch=False),
                opts=self._opts(),
            )
            for what, key, value in (
                ("label", f"label/{WORKER_NODE_LABEL}", "worker"),
                ("taint", f"taint/{WORKER_TAINT['key']}", f"{WORKER_TAINT['value']}:{WORKER_TAINT['effect']}"),
            )
        ]
        return [rights, identity, *hints]

    def _autoscaler(self, cluster: aws.eks.Cluster) -> kubernetes.helm.v3.Release:
        """The cluster autoscaler, by its own chart."""
        chart, repository, version = AUTOSCALER_CHART
        return kubernetes.helm.v3.Release(
            f"{self.name}-autoscaler",
            chart=chart,
            version=version,
            repository_opts={"repo": repository},
            name="cluster-autoscaler",
            namespace="kube-system",
            values={
                "cloudProvider": "aws",
                "awsRegion": self.args.region,
                "autoDiscovery": {"clusterName": cluster.name},
                "rbac": {"serviceAccount": {"create": True, "name": AUTOSCALER_ACCOUNT}},
                "nodeSelector": dict(cloud.SYSTEM_PLACEMENT.node_selector),
                "extraArgs": {"expander": "least-waste", "scale-down-unneeded-time": "5m"},
                "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
            },
            opts=pulumi.ResourceOptions(parent=self, provider=self.provider),
        )

    # Storage

    def _disk_class(self) -> kubernetes.storage.v1.StorageClass:
        """Encrypted gp3 disks that carry the stack's tags, for whoever asks for no class in particular."""
        tags = {
            f"tagSpecification_{index + 1}": f"{key}={value}" for index, (key, value) in enumerate(self.tags.items())
        }
        return kubernetes.storage.v1.StorageClass(
            f"{self.name}-disks",
            metadata={
                "name": "future-disks",
                "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
            },
            provisioner="ebs.csi.aws.com",
            parameters={"type": "gp3", "encrypted": "true", **tags},
            reclaim_policy="Delete",
            volume_binding_mode="WaitForFirstConsumer",
            allow_volume_expansion=True,
            opts=pulumi.ResourceOptions(parent=self, provider=self.provider),
        )

    def _shared_files(
        self, cluster: aws.eks.Cluster, network: Network
    ) -> tuple[aws.efs.FileSystem, list[pulumi.Resource]]:
        """An encrypted file system for /shared, that nodes of this cluster alone can reach."""
        files = aws.efs.FileSystem(
            f"{self.name}-shared",
            encrypted=True,
            throughput_mode="elastic",
            tags={"Name": f"{self.name}-shared"},
            opts=self._opts(),
        )
        door = aws.ec2.SecurityGroup(
            f"{self.name}-shared",
            vpc_id=network.vpc,
            description="NFS from the nodes of the cluster",
            opts=self._opts(),
        )
        rule = aws.vpc.SecurityGroupIngressRule(
            f"{self.name}-shared",
            security_group_id=door.id,
            referenced_security_group_id=cluster.vpc_config.cluster_security_group_id,
            ip_protocol="tcp",
            from_port=2049,
            to_port=2049,
            opts=self._opts(),
        )
        zones = dict.fromkeys([self.site.system_zone, *self.site.worker_zones])
        targets: list[pulumi.Resource] = [
            aws.efs.MountTarget(
                f"{self.name}-shared-{zone}",
                file_system_id=files.id,
                subnet_id=network.private[zone],
                security_groups=[door.id],
                opts=self._opts(),
            )
            for zone in zones
        ]
        return files, [rule, *targets]

    def _shared_class(self, files: aws.efs.FileSystem) -> kubernetes.storage.v1.StorageClass:
        """Folders of the file system, each owned by the image's user."""
        return kubernetes.storage.v1.StorageClass(
            f"{self.name}-shared",
            metadata={"name": "future-shared"},
            provisioner="efs.csi.aws.com",
            parameters={
                "provisioningMode": "efs-ap",
                "fileSystemId": files.id,
                "directoryPerms": "0770",
                "uid": "1000",
                "gid": "1000",
            },
            reclaim_policy="Delete",
            opts=pulumi.ResourceOptions(parent=self, provider=self.provider),
        )

    # Cost

    def _hourly_cost(self) -> float | None:
        """US dollars an hour of nodes, control plane and NAT, as AWS's price list says now; None where it says nothing.

        Disks, file systems, load balancers and traffic are billed by use and not in it.
        """
        args, site = self.args, self.site
        # The price list is served from few regions, of which this is one.
        provider = aws.Provider(f"{self.name}-prices", region="us-east-1", opts=pulumi.ResourceOptions(parent=self))
        opts = pulumi.InvokeOptions(provider=provider)
        region = {"regionCode": args.region}
        worker = site.spot_price if args.spot else price("AmazonEC2", instance_filters(args.machine_type, region), opts)
        parts = [
            (self.pool.nodes, worker),
            (1, price("AmazonEC2", instance_filters(args.system_machine_type, region), opts)),
            (1, price("AmazonEKS", {**region, "operation": "CreateOperation"}, opts)),
        ]
        if not args.network:
            nat = {**region, "productFamily": "NAT Gateway", "groupDescription": "Hourly charge for NAT Gateways"}
            parts.append((len(site.network_zones) if args.nat_per_zone else 1, price("AmazonEC2", nat, opts)))
        return None if any(each is None for _, each in parts) else sum(count * (each or 0) for count, each in parts)


def policy(*statements: Mapping[str, Any]) -> str:
    """A policy document that allows `statements`."""
    return json.dumps(
        {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", **statement} for statement in statements]}
    )


def autoscaler_policy(cluster: str) -> str:
    """Reading is not limited by AWS to single groups; resizing is, to those that carry this cluster's tag."""
    return policy(
        {
            "Sid": "Look",
            "Action": [
                "autoscaling:DescribeAutoScalingGroups",
                "autoscaling:DescribeAutoScalingInstances",
                "autoscaling:DescribeLaunchConfigurations",
                "autoscaling:DescribeScalingActivities",
                "autoscaling:DescribeTags",
                "ec2:DescribeImages",
                "ec2:DescribeInstanceTypes",
                "ec2:DescribeLaunchTemplateVersions",
                "ec2:GetInstanceTypesFromInstanceRequirements",
                "eks:DescribeNodegroup",
            ],
            "Resource": "*",
        },
        {
            "Sid": "ResizeOwnGroups",
            "Action": ["autoscaling:SetDesiredCapacity", "autoscaling:TerminateInstanceInAutoScalingGroup"],
            "Resource": "*",
            "Condition": {"StringEquals": {f"autoscaling:ResourceTag/k8s.io/cluster-autoscaler/{cluster}": "owned"}},
        },
    )


def first_group(resources: Sequence[aws.eks.outputs.NodeGroupResource]) -> str:
    """The name of the autoscaling group that EKS made for a node group."""
    groups = resources[0].autoscaling_groups if resources else None
    return groups[0].name or "" if groups else ""


def load_balancer_annotations(tags: Mapping[str, str], subnets: Sequence[str]) -> dict[str, str]:
    """What makes EKS's own controller give a network load balancer that faces the internet and carries the tags.

    subnets: where it stands; none lets the controller look for the public subnets of the cluster's network
    (https://cloud-provider-aws.sigs.k8s.io/service_controller/).
    """
    prefix = "service.beta.kubernetes.io/aws-load-balancer"
    return {
        f"{prefix}-type": "nlb",
        f"{prefix}-cross-zone-load-balancing-enabled": "true",
        f"{prefix}-additional-resource-tags": ",".join(f"{key}={value}" for key, value in tags.items()),
        **({f"{prefix}-subnets": ",".join(subnets)} if subnets else {}),
    }


def kubeconfig(name: str, endpoint: str, certificate: str, *, region: str) -> str:
    """A kubeconfig (JSON, which is YAML) that holds no credential: the AWS CLI makes one at each use."""
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": name,
            "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
            "clusters": [
                {"name": name, "cluster": {"server": endpoint, "certificate-authority-data": certificate}},
            ],
            "users": [
                {
                    "name": name,
                    "user": {
                        "exec": {
                            "apiVersion": "client.authentication.k8s.io/v1beta1",
                            "command": "aws",
                            "args": [
                                "eks",
                                "get-token",
                                "--region",
                                region,
                                "--cluster-name",
                                name,
                                "--output",
                                "json",
                            ],
                            "interactiveMode": "Never",
                        }
                    },
                }
            ],
        }
    )
