"""PID 1 of a node: keeps the control plane, kubelet, containerd, DNS and the registry running.

Runs inside the node's root as `python3 supervisor.py CGROUP`. It restarts what ends, with a delay that doubles up to
ten seconds, and reaps what is orphaned. When it ends, the kernel ends all in its PID namespace. Standard library only.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

if __package__:
    from local.node.endings import fatal_line, same
else:  # in the node, where this folder is all there is
    from endings import fatal_line, same  # type: ignore[import-not-found,no-redef]

NODE_IP = "10.0.2.100"  # slirp4netns's default for the guest
SERVICE_RANGE = "10.96.0.0/16"
API_SERVICE_IP = "10.96.0.1"
DNS_SERVICE_IP = "10.96.0.10"
POD_RANGE = "10.244.0.0/16"
REGISTRY = "127.0.0.1:5000"
PAUSE_IMAGE = "future-kubernetes.local/pause:1"
PKI = Path("/var/lib/pki")
CONFIG = Path("/etc/node")
LOGS = Path("/var/log/node")
SERVICES = Path("/run/node/services")
"""A file for each service with its PID inside the node, 0 while it is down."""
API_READY = Path("/run/node/api-ready")
"""Made from outside once the API server is ready (local/cluster.py): this Python has no TLS."""
ENDINGS = Path("/run/node/endings")
"""A file for each service that ended: how often in a row with the same error, and on the next line the error."""

# A machine that emulates its processor needs longer for all of it (common/patience.py); what is started too early there
# ends, and takes the processor from what it waits for.
_PATIENCE = float(os.environ.get("FUTURE_KUBERNETES_PATIENCE") or 1)
_FIRST_DELAY_SECONDS = 0.5 * _PATIENCE
_LONGEST_DELAY_SECONDS = 10.0 * _PATIENCE
_STEADY_SECONDS = 30.0 * _PATIENCE
_LOG_TAIL_BYTES = 64 * 1024


@dataclass
class Service:
    """One program that must run, and what is known of its last start."""

    name: str
    argv: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    pid: int = 0
    started: float = 0.0
    delay: float = _FIRST_DELAY_SECONDS
    restart_at: float = 0.0
    log_start: int = 0
    ends: int = 0
    error: str = ""


def main(cgroup: str) -> None:
    """Prepares the node once, then keeps its services running until it is killed."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    for folder in (CONFIG, LOGS, PKI, Path("/etc/cni/net.d"), SERVICES, ENDINGS):
        folder.mkdir(parents=True, exist_ok=True)
    wait_for_network()
    make_pki()
    write_configuration(cgroup)
    services = first_services()
    for service in services:
        start(service)
    Path("/run/node/booted").touch()
    later = True
    while True:
        signal.sigtimedwait({signal.SIGCHLD}, 0.1 if later else 1.0)
        reap(services)
        if later and API_READY.exists():
            later = False
            services += later_services()
        for service in services:
            if service.pid == 0 and time.monotonic() >= service.restart_at:
                start(service)


def wait_for_network() -> None:
    """Brings loopback up and waits for the tap device that slirp4netns lays from outside."""
    run("ip", "link", "set", "lo", "up")
    deadline = time.monotonic() + 30 * _PATIENCE
    while "state UP" not in run("ip", "-o", "link", "show").replace("UNKNOWN", "UP").partition("tap0")[2]:
        if time.monotonic() > deadline:
            sys.exit("no network device in time: see slirp4netns.log")
        time.sleep(0.05)
    for setting, value in (("ip_forward", "1"), ("conf/all/route_localnet", "1")):
        Path("/proc/sys/net/ipv4", setting).write_text(value)
    # What pods send beyond the node leaves under the node's address.
    rule = ["POSTROUTING", "-s", POD_RANGE, "!", "-d", POD_RANGE, "-o", "tap0", "-j", "MASQUERADE"]
    run("iptables", "-w", "-t", "nat", "-A", *rule)


def start(service: Service) -> None:
    """Starts a service with its output appended to a log of its own."""
    with (LOGS / f"{service.name}.log").open("ab") as log:
        service.log_start = log.tell()
        child = subprocess.Popen(
            service.argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **service.environment},
            preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD}),
            start_new_session=True,
        )
    service.pid, service.started = child.pid, time.monotonic()
    (SERVICES / service.name).write_text(str(child.pid))
    child.returncode = 0  # reaped below with all other children, never by the Popen object


def reap(services: list[Service]) -> None:
    """Takes the exit status of every ended child; a service among them is due again after its delay."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        for service in services:
            if service.pid != pid:
                continue
            now = time.monotonic()
            steady = now - service.started > _STEADY_SECONDS
            service.delay = _FIRST_DELAY_SECONDS if steady else min(service.delay * 2, _LONGEST_DELAY_SECONDS)
            service.pid, service.restart_at = 0, now + service.delay
            (SERVICES / service.name).write_text("0")
            code = os.waitstatus_to_exitcode(status)
            note_end(service, steady)
            print(
                f"{service.name} ended with status {code}; again in {service.delay:.1f} s: {service.error}", flush=True
            )


def note_end(service: Service, steady: bool) -> None:
    """Count how often in a row a service has ended soon after its start, with one and the same error."""
    with (LOGS / f"{service.name}.log").open("rb") as log:
        log.seek(max(service.log_start, log.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES))
        error = fatal_line(log.read().decode(errors="replace"))
    again = not steady and same(error, service.error)
    service.ends, service.error = (service.ends + 1 if again else 1), error
    temporary = ENDINGS / f".{service.name}"
    temporary.write_text(f"{0 if steady else service.ends}\n{error}\n")
    temporary.rename(ENDINGS / service.name)


def run(*argv: str) -> str:
    """Output of a command that must succeed."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(argv)}: {done.stderr.strip()}")
    return done.stdout


# Certificates -------------------------------------------------------------------------------------------------------


def make_pki() -> None:
    """One certificate authority and a client or server certificate for each part, made once for a cluster's life."""
    if (PKI / "complete").exists():
        return
    PKI.chmod(0o700)
    key = ("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out")
    run("openssl", *key, f"{PKI}/ca.key")
    run("openssl", "req", "-x509", "-new", "-key", f"{PKI}/ca.key", "-days", "3650",
        "-out", f"{PKI}/ca.crt", "-subj", "/CN=future-kubernetes-local",
        "-addext", "keyUsage=critical,keyCertSign,digitalSignature")  # fmt: skip
    run("openssl", *key, f"{PKI}/service-account.key")
    run("openssl", "ec", "-in", f"{PKI}/service-account.key", "-pubout", "-out", f"{PKI}/service-account.pub")
    addresses = ("127.0.0.1", NODE_IP, API_SERVICE_IP)
    hosts = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
    names = ",".join([*(f"IP:{address}" for address in addresses), *(f"DNS:{host}" for host in hosts)])
    for name, subject, alternative in (
        ("apiserver", "/CN=kube-apiserver", names),
        ("kubelet-server", "/CN=node", f"IP:{NODE_IP},DNS:node"),
        ("kubelet-client", "/O=system:masters/CN=kube-apiserver-kubelet-client", ""),
        ("front-proxy", "/CN=front-proxy-client", ""),
        ("admin", "/O=system:masters/CN=admin", ""),
        ("controller-manager", "/CN=system:kube-controller-manager", ""),
        ("scheduler", "/CN=system:kube-scheduler", ""),
        ("kubelet", "/O=system:nodes/CN=system:node:node", ""),
        ("proxy", "/CN=system:kube-proxy", ""),
        ("coredns", "/CN=coredns", ""),
        ("provisioner", "/CN=local-path-provisioner", ""),
        ("metrics-server", "/CN=metrics-server", ""),
    ):
        run("openssl", *key, f"{PKI}/{name}.key")
        usage = "serverAuth" if alternative else "clientAuth"
        extensions = f"extendedKeyUsage={usage}\n" + (f"subjectAltName={alternative}\n" if alternative else "")
        (PKI / f"{name}.ext").write_text(extensions)
        run("openssl", "req", "-new", "-key", f"{PKI}/{name}.key", "-subj", subject, "-out", f"{PKI}/{name}.csr")
        run("openssl", "x509", "-req", "-in", f"{PKI}/{name}.csr", "-CA", f"{PKI}/ca.crt", "-CAkey", f"{PKI}/ca.key",
            "-CAcreateserial", "-days", "3650", "-extfile", f"{PKI}/{name}.ext",
            "-out", f"{PKI}/{name}.crt")  # fmt: skip
    (PKI / "complete").touch()


def kubeconfig(user: str) -> str:
    """Path of a kubeconfig that reaches the API server inside the node with the certificate of `user`."""
    path = CONFIG / f"{user}.kubeconfig"
    path.write_text(f"""\
apiVersion: v1
kind: Config
current-context: local
clusters: [{{name: local, cluster: {{server: "https://{NODE_IP}:6443", certificate-authority: {PKI}/ca.crt}}}}]
users: [{{name: {user}, user: {{client-certificate: {PKI}/{user}.crt, client-key: {PKI}/{user}.key}}}}]
contexts: [{{name: local, context: {{cluster: local, user: {user}}}}}]
""")
    return str(path)


# Services -----------------------------------------------------------------------------------------------------------


def write_configuration(cgroup: str) -> None:
    """Files that the services read at their start."""
    # ptp routes each pod through the node, where a bridge would let the answers of a Service pass it by unless
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
    # The machine's disk is not the node's alone: how full it is decides neither eviction nor image removal.
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
    """Return etcd, the API server, and what needs neither."""
    return [
        Service(
            "etcd",
            ["etcd", "--name=node", "--data-dir=/var/lib/etcd", "--listen-client-urls=http://127.0.0.1:2379",
             "--advertise-client-urls=http://127.0.0.1:2379", "--listen-peer-urls=http://127.0.0.1:2380",
             # One throw-away node: losing the last moments of a crashed machine is cheaper than a disk flush a write.
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
    """Return what speaks to the API server: started before it is ready, it would end again and again.

    The addons, which other clusters run as pods, need no images as processes.
    """
    return [
        Service(
            "kube-controller-manager",
            ["kube-controller-manager", f"--kubeconfig={kubeconfig('controller-manager')}", "--leader-elect=false",
             f"--root-ca-file={PKI}/ca.crt", f"--service-account-private-key-file={PKI}/service-account.key",
             "--use-service-account-credentials=true", "--bind-address=127.0.0.1",
             "--node-monitor-grace-period=20s"],
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


if __name__ == "__main__":
    main(sys.argv[1])
