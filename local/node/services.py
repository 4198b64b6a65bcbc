"""Services of a node, and their command lines. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass, field

from .pki import kubeconfig
from .places import CONFIG, NODE_IP, PATIENCE, PKI, SERVICE_RANGE

FIRST_DELAY_SECONDS = 0.5 * PATIENCE


@dataclass
class Service:
    """One program that must run, with the state of its last start."""

    name: str
    argv: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    pid: int = 0
    started: float = 0.0
    delay: float = FIRST_DELAY_SECONDS
    restart_at: float = 0.0
    log_start: int = 0
    ends: int = 0
    error: str = ""


def first_services() -> list[Service]:
    """Return etcd, the API server, and the services that need neither."""
    return [
        Service(
            "etcd",
            ["etcd", "--name=node", "--data-dir=/var/lib/etcd", "--listen-client-urls=http://127.0.0.1:2379",
             "--advertise-client-urls=http://127.0.0.1:2379", "--listen-peer-urls=http://127.0.0.1:2380",
             # On a disposable node, losing the last seconds in a crash costs less than a disk flush per write.
             "--unsafe-no-fsync", "--log-level=warn"],
        ),
        Service(
            "kube-apiserver",
            ["kube-apiserver", "--etcd-servers=http://127.0.0.1:2379", f"--advertise-address={NODE_IP}",
             "--bind-address=0.0.0.0", "--secure-port=6443", f"--service-cluster-ip-range={SERVICE_RANGE}",
             "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
             f"--client-ca-file={PKI}/ca.crt", f"--tls-cert-file={PKI}/apiserver.crt",
             f"--tls-private-key-file={PKI}/apiserver.key", f"--kubelet-certificate-authority={PKI}/ca.crt",
             f"--kubelet-client-certificate={PKI}/kubelet-client.crt", f"--kubelet-client-key={PKI}/kubelet-client.key",
             "--kubelet-preferred-address-types=InternalIP", f"--service-account-key-file={PKI}/service-account.pub",
             f"--service-account-signing-key-file={PKI}/service-account.key",
             "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
             f"--requestheader-client-ca-file={PKI}/ca.crt", "--requestheader-allowed-names=front-proxy-client",
             "--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
             "--requestheader-extra-headers-prefix=X-Remote-Extra-", f"--proxy-client-cert-file={PKI}/front-proxy.crt",
             f"--proxy-client-key-file={PKI}/front-proxy.key", "--enable-aggregator-routing=true"],
        ),
        Service("containerd", ["containerd", "--config", f"{CONFIG}/containerd.toml"]),
        Service("registry", ["registry", "serve", f"{CONFIG}/registry.yaml"], {"OTEL_TRACES_EXPORTER": "none"}),
    ]  # fmt: skip


def later_services() -> list[Service]:
    """Return the clients of the API server. Started before the server is ready, they would end again and again.

    Addons are processes here, not pods as on other clusters, and so need no images.
    """
    return [
        Service(
            "kube-controller-manager",
            ["kube-controller-manager", f"--kubeconfig={kubeconfig('controller-manager')}", "--leader-elect=false",
             f"--root-ca-file={PKI}/ca.crt", f"--service-account-private-key-file={PKI}/service-account.key",
             "--use-service-account-credentials=true", "--bind-address=127.0.0.1",
             f"--node-monitor-grace-period={20 * PATIENCE:.0f}s"],
        ),
        Service(
            "kube-scheduler",
            ["kube-scheduler", f"--kubeconfig={kubeconfig('scheduler')}", "--leader-elect=false",
             "--bind-address=127.0.0.1"],
        ),
        Service(
            "kubelet",
            ["kubelet", f"--config={CONFIG}/kubelet.yaml", f"--kubeconfig={kubeconfig('kubelet')}",
             "--hostname-override=node", f"--node-ip={NODE_IP}"],
        ),
        Service("kube-proxy", ["kube-proxy", f"--config={CONFIG}/proxy.yaml"]),
        Service("coredns", ["coredns", "-conf", f"{CONFIG}/Corefile"]),
        Service(
            "metrics-server",
            ["metrics-server", f"--kubeconfig={kubeconfig('metrics-server')}",
             f"--authentication-kubeconfig={kubeconfig('metrics-server')}",
             f"--authorization-kubeconfig={kubeconfig('metrics-server')}", "--secure-port=4443",
             "--cert-dir=/run/node/metrics-server", "--kubelet-preferred-address-types=InternalIP",
             f"--kubelet-certificate-authority={PKI}/ca.crt", "--metric-resolution=15s"],
        ),
        Service(
            "local-path-provisioner",
            ["local-path-provisioner", "start", f"--kubeconfig={kubeconfig('provisioner')}",
             "--config=/opt/node/local-path/config.json", "--provisioner-name=rancher.io/local-path",
             "--helper-pod-file=/opt/node/local-path/helperPod.yaml",
             "--namespace=kube-system", "--service-account-name=default", "--configmap-name=local-path-config"],
            {"POD_NAMESPACE": "kube-system"},
        ),
    ]  # fmt: skip
