"""Files that the node's services read at their start, one function each. Standard library only."""

from __future__ import annotations

from pathlib import Path

from .pki import kubeconfig
from .places import CONFIG, DNS_SERVICE_IP, NODE_IP, PATIENCE, PAUSE_IMAGE, PKI, POD_RANGE, REGISTRY


def write_configuration(cgroup: str) -> None:
    """Write the file of each service. cgroup: the control group in which the kubelet makes those of the pods."""
    (Path("/etc/cni/net.d") / "10-ptp.conflist").write_text(pod_network())
    (CONFIG / "containerd.toml").write_text(containerd())
    (CONFIG / "registry.yaml").write_text(registry())
    (CONFIG / "kubelet.yaml").write_text(kubelet(cgroup))
    (CONFIG / "proxy.yaml").write_text(proxy())
    (CONFIG / "Corefile").write_text(coredns())


def pod_network() -> str:
    """Return the list of CNI plugins.

    ptp routes each pod through the node. With a bridge, replies of a Service would bypass the node's rules unless
    br_netfilter is on for the machine.
    """
    return f"""\
{{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {{"type": "ptp", "mtu": 65520, "ipam": {{"type": "host-local", "dataDir": "/run/cni",
    "ranges": [[{{"subnet": "{POD_RANGE}"}}]],
    "routes": [{{"dst": "0.0.0.0/0"}}]}}}},
  {{"type": "portmap", "capabilities": {{"portMappings": true}}}}]}}
"""


def containerd() -> str:
    """Return containerd's configuration.

    restrict_oom_score_adj: without SYS_RESOURCE a lower score is refused and no pod sandbox starts.
    """
    return f"""\
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
"""


def registry() -> str:
    """Return the configuration of the image registry."""
    return f"""\
version: 0.1
log: {{level: warn}}
storage: {{filesystem: {{rootdirectory: /var/lib/registry}}}}
http: {{addr: "{REGISTRY}"}}
"""


def kubelet(cgroup: str) -> str:
    """Return the kubelet's configuration.

    The machine's disk is shared, so its usage must cause neither eviction nor image removal. singleProcessOOMKill: with
    cgroup v2 the end of one R session for want of memory would else be that of its whole pod.
    """
    return f"""\
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
singleProcessOOMKill: true
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
"""


def proxy() -> str:
    """Return kube-proxy's configuration."""
    return f"""\
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
"""


def coredns() -> str:
    """Return the Corefile."""
    return f""".:53 {{
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
"""
