"""Elastic parallel R on Kubernetes: settings, cluster, image, release, outputs.

Each step takes what the one before it gives, and nothing goes back. `Pulumi.yaml` describes every setting.
"""

import pulumi

from components.clouds.base import Cluster
from components.image import Image, ImageArgs, pinned, require_docker
from components.release.outputs import stack_outputs
from components.release.release import Release, ReleaseArgs
from components.settings.model import Settings


def create_cluster(settings: Settings) -> Cluster:
    """The cluster of the chosen cloud. Imports only that cloud's SDK: the others need not be installed."""
    if settings.cloud == "gke":
        from components.clouds.google.cluster import GkeCluster, GkeClusterArgs

        return GkeCluster(settings.name, GkeClusterArgs.from_settings(settings))
    if settings.cloud == "eks":
        from components.clouds.aws.cluster import EksCluster, EksClusterArgs

        return EksCluster(settings.name, EksClusterArgs.from_settings(settings))
    if settings.cloud == "kubeconfig":
        from components.clouds.existing.cluster import KubeconfigCluster, KubeconfigClusterArgs

        return KubeconfigCluster(settings.name, KubeconfigClusterArgs.from_settings(settings))
    from components.clouds.existing.local import LocalCluster, LocalClusterArgs

    return LocalCluster(settings.name, LocalClusterArgs.from_settings(settings))


settings = Settings.load()
given = pinned(settings.image) if settings.image else None  # first: a registry may refuse
if not given:
    require_docker()
cluster = create_cluster(settings)
image = Image(settings.name, ImageArgs.from_settings(settings, cluster.registry, given))
release = Release(
    settings.name,
    ReleaseArgs.from_settings(settings, cluster, image.reference),
    pulumi.ResourceOptions(providers=[cluster.provider]),
)
for name, value in stack_outputs(settings, cluster, image.reference, release).items():
    pulumi.export(name, value)
