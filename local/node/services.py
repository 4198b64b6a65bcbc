"""Services of a node: their command lines, and the files that they read at their start. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from .pki import kubeconfig
from .places import CONFIG, DNS_SERVICE_IP, NODE_IP, PATIENCE, PAUSE_IMAGE, PKI, POD_RANGE, REGISTRY, SERVICE_RANGE

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


def write_configuration(cgroup: str) -> None:
    """Files that the services read at their start."""
    # ptp routes each pod through the node. With a bridge, replies of a Service would bypass the node's rules unless
    # br_netfilter is on for the machine.
    (Path("/etc/cni/net.d") / "10-ptp.conflist").write_text(f"""\
{{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {{"type": "ptp", "mtu": 65520, "ipam": {{"type": "host-local", "dataDir": "/run/cni",
    "ranges": [[{{"subnet": "{POD_RANGE}"}}]],
    "routes": [{{"dst": "0.0.0.0/0"}}]}}}},
  {{"type": "portmap", "capabilities": {{"portMappings": true}}}}]}}
""")
    # restrict_oom_score_adj: without SYS_RESOURCE a lower score is refused and no pod sandbox starts.
    (CONFIG / "containerd.toml").write_text(f"""\
version = 3
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = '{PAUSE_IMAGE}'
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ['/usr/lib/cni']
    conf_dir = '/etc/cni/net.d'
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = 'io.containerd.runc.v2'
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
      SystemdCgroup = false
""")
    (CONFIG / "registry.yaml").write_text(f"""\
version: 0.1
log: {{level: warn}}
storage: {{filesystem: {{rootdirectory: /var/lib/registry}}}}
http: {{addr: "{REGISTRY}"}}
""")
    # The machine's disk is shared, so its usage must cause neither eviction nor image removal.
    (CONFIG / "kubelet.yaml").write_text(f"""\
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {{anonymous: {{enabled: false}}, webhook: {{enabled: true}}, x509: {{clientCAFile: {PKI}/ca.crt}}}}
authorization: {{mode: Webhook}}
tlsCertFile: {PKI}/kubelet-server.crt
tlsPrivateKeyFile: {PKI}/kubelet-server.key
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
cgroupRoot: {cgroup}
failCgroupV1: false
failSwapOn: false
clusterDomain: cluster.local
clusterDNS: [{DNS_SERVICE_IP}]
resolvConf: /etc/resolv.conf
address: {NODE_IP}
maxPods: 300
serializeImagePulls: false
registryPullQPS: 0
kubeAPIQPS: 100
kubeAPIBurst: 200
eventRecordQPS: 0
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
evictionHard: {{memory.available: 100Mi, nodefs.available: "1%", imagefs.available: "1%", nodefs.inodesFree: "1%"}}
shutdownGracePeriod: 0s
nodeLeaseDurationSeconds: {40 * PATIENCE:.0f}
runtimeRequestTimeout: {120 * PATIENCE:.0f}s
""")
    (CONFIG / "proxy.yaml").write_text(f"""\
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
clusterCIDR: {POD_RANGE}
hostnameOverride: node
metricsBindAddress: 127.0.0.1:10249
healthzBindAddress: 127.0.0.1:10256
clientConnection: {{kubeconfig: {kubeconfig("proxy")}}}
iptables: {{minSyncPeriod: 1s, syncPeriod: 30s}}
conntrack: {{maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}}
""")
    (CONFIG / "Corefile").write_text(f""".:53 {{
    bind {NODE_IP}
    errors
    health 127.0.0.1:8080
    ready 127.0.0.1:8181
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
        kubeconfig {kubeconfig("coredns")}
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
    }}
    forward . /etc/resolv.conf
    cache 30
}}
""")


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
