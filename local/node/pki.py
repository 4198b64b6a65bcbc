"""Certificates of a node's parts, and the kubeconfigs that use them. Standard library and openssl only."""

from __future__ import annotations

from .places import API_SERVICE_IP, CONFIG, NODE_IP, PKI, run


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
