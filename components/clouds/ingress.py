"""Public access to the IDE with TLS, the same on both clouds: Traefik behind a load balancer, with Let's Encrypt.

Created only where `host` is set. The load balancer passes TCP through and Traefik holds the certificate, which it
requests over port 443 (TLS-ALPN-01). Its address is reserved, so that DNS can point to it. The clouds' own ingress
controllers each configure certificates differently, and close the long-lived connections of an IDE.
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
IMAGE_TAG = "v3.7.11"
"""Of Traefik, as the chart's version has it."""

ALLOW_LIST = "host-networks"
"""Name of the rule in Traefik that admits `hostNetworks`."""

STORAGE = "/data/acme.json"
"""File with the certificate, on the volume."""

CERTIFICATE_GIB = 1
"""Size of that volume."""

COMMANDS = """\
pause() { sleep "$1"; }
end_traefik() {
  for each in "${PROC:-/proc}"/[0-9]*; do
    if [ "$(cat "$each/comm" 2>/dev/null)" = traefik ]; then kill "${each##*/}"; fi
  done
}
"""
"""The commands of `RETRY`, without those that not every image has."""

RETRY = """\
pause 180
until grep -qF "\\"$NAME\\"" "$STORAGE"; do
  if nslookup "$NAME" | awk -v known=" $ADDRESSES " '
    /^Address/ && index(known, " " $NF " ") { found = 1 }
    END { exit !found }
  '; then
    echo "$NAME points here and has no certificate: starting Traefik again, which requests one"
    end_traefik
    pause 900
  else
    echo "$NAME does not point to $ADDRESSES yet"
    pause 30
  fi
done
while pause 86400; do :; done
"""
"""Restarts Traefik while `host` points to it and has no certificate.

Traefik requests a certificate when it starts, usually before DNS points to it or the load balancer lets connections
through, and does not repeat a request that failed (https://github.com/traefik/traefik/issues/9405). The pauses keep to
the five failures an hour that Let's Encrypt allows (https://letsencrypt.org/docs/rate-limits/). Once there is a
certificate, Traefik renews it by itself, every day until that succeeds.
"""

READY_SECONDS = 900
"""Limit for Traefik to become ready, which includes the cloud's time to create the load balancer."""


@dataclass(frozen=True)
class PublicIngressArgs:
    """Arguments of `PublicIngress`.

    node_selector: nodes on which Traefik runs. storage_class: class of the volume that keeps the certificate. host: the
    DNS name. addresses: reserved, for the load balancer. service: values of its Service. email: of the account at
    Let's Encrypt. networks: those that may open the page; none for all. wait_for: resources created before.
    """

    node_selector: Mapping[str, str]
    storage_class: pulumi.Input[str]
    host: str
    addresses: Sequence[pulumi.Input[str]]
    service: Mapping[str, Any] = field(default_factory=dict)
    email: str | None = None
    networks: Sequence[str] = ()
    wait_for: Sequence[pulumi.Resource] = ()


class PublicIngress(pulumi.ComponentResource):
    """Traefik with one load balancer.

    access: input of the release. release: Traefik itself.
    """

    access: PublicAccess

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
        self.release = release
        self.access = PublicAccess(
            ingress_class=INGRESS_CLASS,
            annotations={
                "traefik.ingress.kubernetes.io/router.entrypoints": "websecure",
                "traefik.ingress.kubernetes.io/router.tls": "true",
                "traefik.ingress.kubernetes.io/router.tls.certresolver": RESOLVER,
                **allow_list_annotation(args),
            },
        )
        self.register_outputs({})


def traefik_values(args: PublicIngressArgs) -> dict[str, Any]:
    """Values of Traefik's chart: only HTTPS, the certificate on a volume, only Ingresses of its own class."""
    acme = {"storage": STORAGE, "tlsChallenge": True, **({"email": args.email} if args.email else {})}
    # Cluster would send connections through every node, and the end of a spot worker would cut them.
    service = {**args.service, "spec": {**args.service.get("spec", {}), "externalTrafficPolicy": "Local"}}
    return {
        "image": {"tag": IMAGE_TAG},
        "deployment": {
            "replicas": 1,
            # With it the container that retries may end Traefik, which runs as the same user.
            "shareProcessNamespace": True,
            "additionalContainers": [certificate_retry(args)],
        },
        # Two pods would each request a certificate, and the volume can be mounted by only one.
        "updateStrategy": {"type": "Recreate", "rollingUpdate": None},
        "ingressClass": {"enabled": True, "isDefaultClass": False, "name": INGRESS_CLASS},
        "providers": {
            "kubernetesCRD": {"enabled": False},
            "kubernetesIngress": {"enabled": True, "ingressClass": INGRESS_CLASS},
            **allow_list(args),
        },
        "ingressRoute": {"dashboard": {"enabled": False}},
        "api": {"dashboard": False},
        "ports": {
            "web": {"expose": {"default": False}},
            # Traefik's default of 60 s would cut off the upload of a large file.
            "websecure": {"transport": {"respondingTimeouts": {"readTimeout": "0s"}}},
        },
        "service": service,
        "persistence": {"enabled": True, "size": f"{CERTIFICATE_GIB}Gi", "storageClass": args.storage_class},
        "podSecurityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "fsGroup": 65532,
            # By default fsGroup makes acme.json readable by its group at each start, and Traefik refuses such a file.
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "certificatesResolvers": {RESOLVER: {"acme": acme}},
        "resources": {"requests": {"cpu": "50m", "memory": "96Mi"}, "limits": {"memory": "256Mi"}},
        "nodeSelector": dict(args.node_selector),
    }


def allow_list(args: PublicIngressArgs) -> dict[str, Any]:
    """The provider of Traefik's rule that answers 403 to all but `networks`.

    In Traefik, and not in the load balancer: Let's Encrypt connects from addresses that it does not publish, and its
    challenge is answered before any rule. With the traffic policy Local, Traefik sees the client's address.
    """
    if not args.networks:
        return {}
    middleware = {ALLOW_LIST: {"ipAllowList": {"sourceRange": list(args.networks)}}}
    return {"file": {"enabled": True, "watch": True, "content": {"http": {"middlewares": middleware}}}}


def allow_list_annotation(args: PublicIngressArgs) -> dict[str, str]:
    """The Ingress's annotation for the rule. Where Traefik does not know the rule, it serves no page at all."""
    return {"traefik.ingress.kubernetes.io/router.middlewares": f"{ALLOW_LIST}@file"} if args.networks else {}


def certificate_retry(args: PublicIngressArgs) -> dict[str, Any]:
    """The container beside Traefik that runs `RETRY`, from Traefik's own image, which has a shell."""
    names = pulumi.Output.all(*args.addresses).apply(" ".join)
    return {
        "name": "certificate-retry",
        "image": f"docker.io/traefik:{IMAGE_TAG}",
        "command": ["sh", "-c", COMMANDS + RETRY],
        "env": [
            {"name": "NAME", "value": args.host},
            {"name": "ADDRESSES", "value": names},
            {"name": "STORAGE", "value": STORAGE},
        ],
        "volumeMounts": [{"name": "data", "mountPath": "/data", "readOnly": True}],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "resources": {"requests": {"cpu": "5m", "memory": "16Mi"}, "limits": {"memory": "32Mi"}},
    }
