"""The Helm release of the chart, with the namespace and the Secret that it needs."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pulumi
from pulumi_kubernetes.helm import v3 as helm
from pulumi_random import RandomId

from common.patience import patience
from components.clouds.base import Cluster, home_claim, shared_claim
from components.release.kubernetes_object import KubernetesObject
from components.release.secrets import COOKIE_SECRET_LENGTH, PASSWORD_LENGTH, TOKEN_LENGTH, random_text
from components.release.values import chart_values, oidc_secret
from components.release.wait_report import report_wait
from components.settings.model import Settings

CHART_DIR = "chart"
"""Relative to the project: an absolute path in an input would be a change on every other machine."""

NOT_DEPLOYED = frozenset({"README.md", "NEWS.md", "values.schema.yaml", "ci"})
"""Files that render no object. If they were hashed, an edited sentence would update every stack."""

PROJECT_DIR = Path(__file__).resolve().parents[2]

READY_SECONDS = 900
"""Limit for the scheduler. The update does not wait for workers: a lack of machines would take the IDE away with it.

Starting a new node takes up to five minutes, and pulling the image to it several more.
"""

MAX_HISTORY = 5
"""Revisions that Helm keeps, each with all values as a Secret in the namespace. Without a limit they pile up."""

PAUSED = (
    "pauseRollouts is true: pods that run stay as they are, so no change of their image, size or settings takes effect "
    "until {fix}, then `pulumi up`, which ends R sessions"
)


class Release(pulumi.ComponentResource):
    """Namespace, Secret and Helm release. `password` is a secret output; `namespace` and `name` are plain."""

    name: str
    namespace: str
    password: pulumi.Output[str]

    def __init__(
        self,
        name: str,
        settings: Settings,
        cluster: Cluster,
        image: pulumi.Input[str],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("future-kubernetes:index:Release", name, None, opts)
        self.name = settings.name
        self.namespace = settings.namespace
        # Named on each child, since the SDK does not pass a component's `depends_on` on to its children.
        before: list[pulumi.Resource] = [*cluster.ready]
        drawn = pulumi.ResourceOptions(parent=self, depends_on=[*cluster.ready])
        if settings.makes_namespace:
            before.append(self._own_namespace(name, settings, drawn))
        if settings.password:
            self.password = pulumi.Output.secret(settings.password.get_secret_value())
        else:
            self.password = random_text(f"{name}-password", PASSWORD_LENGTH, drawn)
        token = random_text(f"{name}-token", TOKEN_LENGTH, drawn)
        auth = f"{settings.name}-auth"
        after = pulumi.ResourceOptions(parent=self, depends_on=before)
        secret = self._secret(name, auth, settings, {"password": self.password, "token": token}, after)
        needed: list[pulumi.Resource] = [*cluster.ready, secret]
        if settings.environment:
            # Pods mount it as files, which R reads when it starts, so that a change restarts no pod.
            variables = pulumi.Output.secret(dict(settings.environment))
            environment = f"{settings.name}-environment"
            needed.append(self._secret(f"{name}-environment", environment, settings, variables, after))
        login_version: pulumi.Input[str] = ""
        if settings.oidc_client_secret:
            client_secret = pulumi.Output.secret(settings.oidc_client_secret.get_secret_value())
            cookie_secret = random_text(f"{name}-cookie", COOKIE_SECRET_LENGTH, drawn)
            login = {"client-secret": client_secret, "cookie-secret": cookie_secret}
            needed.append(self._secret(f"{name}-oidc", oidc_secret(settings), settings, login, after))
            # Drawn anew with the secret: a hash of a short one could be guessed by those who may read pods.
            login_version = RandomId(f"{name}-oidc", byte_length=4, keepers={"secret": client_secret}, opts=drawn).hex
        if cluster.home_volume:
            home = {
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": cluster.home_storage_class,
                "volumeName": cluster.home_volume,
                # A larger one expands the disk.
                "resources": {"requests": {"storage": f"{settings.home_gib}Gi"}},
            }
            needed.append(self._claim(f"{name}-home", home_claim(settings), settings, home, after))
        if cluster.shared_volume:
            shared = {
                "accessModes": ["ReadWriteMany"],
                "storageClassName": cluster.shared_storage_class,
                "volumeName": cluster.shared_volume,
                # The volume's size counts, so that a larger one does not change the claim.
                "resources": {"requests": {"storage": "1Gi"}},
            }
            needed.append(self._claim(f"{name}-shared", shared_claim(settings), settings, shared, after))
        if settings.pause_rollouts:
            pulumi.log.warn(PAUSED.format(fix=settings.key("pauseRollouts").command("false")), self)
        release = helm.Release(
            name,
            name=settings.name,
            namespace=settings.namespace,
            chart=f"./{CHART_DIR}",
            # The provider compares only the chart's version, so without this an edited template is never deployed.
            description=f"chart {chart_hash(PROJECT_DIR / CHART_DIR)}",
            values=chart_values(settings, cluster, image, auth, login_version),
            # A failed install is removed and a failed upgrade rolled back, so that the next run starts from rest.
            atomic=True,
            timeout=round(patience(READY_SECONDS)),
            max_history=MAX_HISTORY,
            opts=pulumi.ResourceOptions(parent=self, depends_on=needed),
        )
        if cluster.reports_wait:
            seconds = patience(READY_SECONDS)
            report_wait(cluster.kubeconfig, settings.namespace, settings.name, needed, release, seconds)
        self.register_outputs({"namespace": self.namespace, "password": self.password})

    @staticmethod
    def _secret(
        name: str, object_name: str, settings: Settings, texts: pulumi.Input[Any], opts: pulumi.ResourceOptions
    ) -> KubernetesObject:
        """A Secret in the stack's namespace, with the stack's labels. texts: its entries by key."""
        metadata: dict[str, Any] = {"name": object_name, "namespace": settings.namespace}
        if settings.labels:  # empty ones would be a change on every run, since the cluster does not keep them
            metadata["labels"] = dict(settings.labels)
        body = {"metadata": metadata, "stringData": texts}
        return KubernetesObject("v1", "Secret", name, body, opts, secret=("data", "stringData"))

    @staticmethod
    def _claim(
        name: str, object_name: str, settings: Settings, spec: dict[str, Any], opts: pulumi.ResourceOptions
    ) -> KubernetesObject:
        """The claim of a volume that the cluster component made.

        In the Helm release, the first failed installation would delete it, and leave a volume that binds to no claim
        again.
        """
        body = {"metadata": {"name": object_name, "namespace": settings.namespace}, "spec": spec}
        return KubernetesObject("v1", "PersistentVolumeClaim", name, body, opts)

    def _own_namespace(self, name: str, settings: Settings, opts: pulumi.ResourceOptions) -> KubernetesObject:
        """The stack's own namespace, whose pods run unprivileged (Pod Security Standards: restricted)."""
        labels = {**settings.labels, "pod-security.kubernetes.io/enforce": "restricted"}
        metadata = {"name": settings.namespace, "labels": labels}
        return KubernetesObject("v1", "Namespace", name, {"metadata": metadata}, opts)


def chart_hash(folder: Path) -> str:
    """A hash over names and contents of the files that are deployed, the same on every machine."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).as_posix()):
        parts = path.relative_to(folder).parts
        if path.is_file() and parts[0] not in NOT_DEPLOYED and not any(part.startswith(".") for part in parts):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(folder).as_posix()}\0{len(content)}\0".encode())
            digest.update(content)
    return digest.hexdigest()[:16]
