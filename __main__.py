"""Elastic parallel R on Kubernetes: settings, cluster, image, release, outputs.

Data flows one way: each step uses the results of the steps before it. docs/settings.md describes every setting.
"""

import gc

import pulumi

from components.clouds import CLOUDS, MODELS
from components.image import Image, pinned, require_docker
from components.release.outputs import stack_outputs
from components.release.release import Release
from components.settings.loading import load

# A provider's SDK is thousands of classes, imported below by use, and none of them is freed before the program ends.
# Python by default looks for garbage among them every 700 objects, which is an eighth of the program's time on EKS.
gc.set_threshold(100_000)

settings = load(MODELS)
given = pinned(settings.image) if settings.image else None  # before the cluster: a registry may refuse
if not given:
    require_docker()
cluster = CLOUDS[settings.cloud].create(settings)
image = Image(settings.name, settings, cluster.registry, given)
to_cluster = pulumi.ResourceOptions(providers=[cluster.provider])
release = Release(settings.name, settings, cluster, image.reference, to_cluster)
for name, value in stack_outputs(settings, cluster, image.reference, release).items():
    pulumi.export(name, value)
