"""Public access to the IDE with TLS, the same on both clouds: Traefik behind a load balancer, with Let's Encrypt.

Created only where `host` is set. The load balancer passes TCP through and Traefik holds the certificate. Traefik
requests it once the name in `host` points to the load balancer (TLS-ALPN-01, for which only port 443 is open). The
clouds' own ingress controllers each configure certificates differently, and close the long-lived connections of an IDE.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pulumi
import pulumi_kubernetes as kubernetes

from components.clouds.base import PublicAccess

CHART = "traefik"
CHART_REPOSITORY = "https://traefik.github.io/charts"
CHART_VERSION = "41.3.0"
RESOLVER = "letsencrypt"
INGRESS_CLASS = "future-kubernetes"

READY_SECONDS = 900
"""Limit for Traefik to become ready, which includes the cloud's time to create the load balancer."""


@dataclass(frozen=True)
class PublicIngressArgs:
    """Arguments of `PublicIngress`.

    node_selector: nodes on which Traefik runs. storage_class: class of the volume that keeps the certificate.
    service_annotations: the cloud's annotations of the load balancer's Service. wait_for: resources created before.
    """

    node_selector: Mapping[str, str]
    storage_class: pulumi.Input[str]
    service_annotations: Mapping[str, str] = field(default_factory=dict)
    wait_for: Sequence[pulumi.Resource] = ()


class PublicIngress(pulumi.ComponentResource):
    """Traefik with one load balancer.

    access: input of the release. address: the target of the DNS record of `host`. release: Traefik itself.
    """

    access: PublicAccess
    address: pulumi.Output[str | None]

    def __init__(
        self,
        name: str,
        args: PublicIngressArgs,
        provider: kubernetes.Provider,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("future-kubernetes:index:PublicIngress", name, None, opts)
        namespace = kubernetes.core.v1.Namespace(
            f"{name}-ingress",
            metadata={"name": "future-ingress"},
            opts=pulumi.ResourceOptions(parent=self, provider=provider, depends_on=list(args.wait_for)),
        )
        release = kubernetes.helm.v3.Release(
            f"{name}-traefik",
            chart=CHART,
            version=CHART_VERSION,
            repository_opts={"repo": CHART_REPOSITORY},
            name="traefik",
            namespace=namespace.metadata["name"],
            values=traefik_values(args),
            timeout=READY_SECONDS,
            opts=pulumi.ResourceOptions(parent=self, provider=provider),
        )
        service = kubernetes.core.v1.Service.get(
            f"{name}-load-balancer",
            release.id.apply(lambda _: "future-ingress/traefik"),
            opts=pulumi.ResourceOptions(parent=self, provider=provider, depends_on=[release]),
        )
        self.release = release
        self.access = PublicAccess(
            ingress_class=INGRESS_CLASS,
            annotations={
                "traefik.ingress.kubernetes.io/router.entrypoints": "websecure",
                "traefik.ingress.kubernetes.io/router.tls": "true",
                "traefik.ingress.kubernetes.io/router.tls.certresolver": RESOLVER,
            },
        )
        self.address = service.status.apply(address_in)
        self.register_outputs({"address": self.address})


def traefik_values(args: PublicIngressArgs) -> dict[str, Any]:
    """Values of Traefik's chart: only HTTPS, the certificate on a volume, only Ingresses of its own class."""
    return {
        "deployment": {"replicas": 1},
        # Two pods would each request a certificate, and the volume can be mounted by only one.
        "updateStrategy": {"type": "Recreate", "rollingUpdate": None},
        "ingressClass": {"enabled": True, "isDefaultClass": False, "name": INGRESS_CLASS},
        "providers": {
            "kubernetesCRD": {"enabled": False},
            "kubernetesIngress": {"enabled": True, "ingressClass": INGRESS_CLASS},
        },
        "ingressRoute": {"dashboard": {"enabled": False}},
        "api": {"dashboard": False},
        "ports": {
            "web": {"expose": {"default": False}},
            # Traefik's default of 60 s would cut off the upload of a large file.
            "websecure": {"transport": {"respondingTimeouts": {"readTimeout": "0s"}}},
        },
        # Cluster would send connections through every node, and the end of a spot worker would cut them.
        "service": {"annotations": dict(args.service_annotations), "spec": {"externalTrafficPolicy": "Local"}},
        "persistence": {"enabled": True, "size": "1Gi", "storageClass": args.storage_class},
        "podSecurityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "fsGroup": 65532,
            # By default fsGroup makes acme.json readable by its group at each start, and Traefik refuses such a file.
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "certificatesResolvers": {RESOLVER: {"acme": {"storage": "/data/acme.json", "tlsChallenge": True}}},
        "resources": {"requests": {"cpu": "50m", "memory": "96Mi"}, "limits": {"memory": "256Mi"}},
        "nodeSelector": dict(args.node_selector),
    }


def address_in(status: Any) -> str | None:
    """The address (IP or DNS name) of a Service's load balancer. None while there is none."""
    balancer = getattr(status, "load_balancer", None) or (status or {}).get("loadBalancer") or {}
    entries = getattr(balancer, "ingress", None) or (balancer.get("ingress") if isinstance(balancer, dict) else None)
    if not entries:
        return None
    first = entries[0]
    if isinstance(first, dict):
        return first.get("ip") or first.get("hostname")
    return getattr(first, "ip", None) or getattr(first, "hostname", None)
