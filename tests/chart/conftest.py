"""Renders the chart as Helm would install it, and stands in for the cluster where the chart asks one."""

import copy
import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.patience import patience
from local import go_binaries

CHART = Path(__file__).parents[2] / "chart"
KUBERNETES = "1.36.0"
VERSION = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
IMAGE = "registry.example.org/r@sha256:" + 64 * "a"
MINIMAL: dict[str, Any] = {"image": IMAGE, "auth": {"existingSecret": "r-login"}}

CASES: dict[str, dict[str, Any]] = {
    path.name.removesuffix("-values.yaml"): yaml.safe_load(path.read_text())
    for path in sorted((CHART / "ci").glob("*-values.yaml"))
}
"""Values of typical installations, by the name of their file. Every structural rule is asserted on all of them."""


def merged(base: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``more`` laid over it, mapping by mapping, as Helm lays values over values."""
    result = copy.deepcopy(dict(base))
    for key, value in more.items():
        result[key] = merged(result[key], value) if isinstance(value, Mapping) and key in result else value
    return result


def binary(name: str) -> str:
    """Path of a tool at the version that the project pins; built at its first use on a machine."""
    modules = {
        "kube-score": go_binaries.KUBE_SCORE,
        "promtool": go_binaries.PROMTOOL,
        "oauth2-proxy": go_binaries.OAUTH2_PROXY,
    }
    return str(go_binaries.build(modules.get(name, go_binaries.NODE)) / name)


RENDERED: dict[str, str] = {}
"""Manifests by what they were rendered from: most tests look at one of a few."""


class Helm:
    """Runs Helm on the chart, with values of one's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.chart = CHART
        self.binary = binary("helm")
        # A kubeconfig of the person who runs the tests must never be asked.
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "KUBECONFIG": str(folder / "none")}

    def run(self, *arguments: str, values: Mapping[str, Any]) -> subprocess.CompletedProcess[str]:
        """Helm with ``arguments`` and exactly ``values``."""
        file = self.folder / "values.yaml"
        file.write_text(yaml.safe_dump(dict(values)))
        return self._helm(*arguments, "--values", str(file))

    def command(self, *arguments: str) -> str:
        """The output of Helm, which must succeed."""
        done = self._helm(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _helm(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [self.binary, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=patience(60), env=self.environment)

    def template(self, values: Mapping[str, Any], *arguments: str, release: str = "lab") -> str:
        """The manifest with ``values`` laid over the least that the chart needs."""
        command = ["template", release, str(self.chart), "--namespace", "team", "--kube-version", KUBERNETES]
        key = json.dumps([command, arguments, values])
        # Replies of a cluster are not kept: each test has its own.
        if key not in RENDERED or "--dry-run=server" in arguments:
            done = self.run(*command, *arguments, values=merged(MINIMAL, values))
            assert done.returncode == 0, done.stderr
            RENDERED[key] = done.stdout
        return RENDERED[key]

    def objects(self, values: Mapping[str, Any], release: str = "lab") -> dict[tuple[str, str], dict[str, Any]]:
        """The manifest's objects by kind and name."""
        documents = [document for document in yaml.load_all(self.template(values, release=release), LOADER) if document]
        found = {(document["kind"], document["metadata"]["name"]): document for document in documents}
        assert len(found) == len(documents), "two objects of one kind have one name"
        return found

    def refusal(self, values: Mapping[str, Any]) -> str:
        """The message with which Helm refuses exactly ``values``."""
        done = self.run(
            "template", "lab", str(self.chart), "--namespace", "team", "--kube-version", KUBERNETES, values=values
        )
        assert done.returncode != 0, f"Helm took {values}"
        return done.stderr


@pytest.fixture
def helm(tmp_path: Path) -> Helm:
    return Helm(tmp_path)


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The values of each case in turn."""
    return CASES[request.param]


class ClusterStandIn:
    """The little of a Kubernetes API that Helm's ``lookup`` and dry run ask for; it holds ``objects`` by their path."""

    groups: tuple[str, ...] = ("apps", "networking.k8s.io", "policy", "rbac.authorization.k8s.io")
    resources: Mapping[str, Mapping[str, str]] = {
        "v1": {
            "configmaps": "ConfigMap",
            "persistentvolumeclaims": "PersistentVolumeClaim",
            "pods": "Pod",
            "resourcequotas": "ResourceQuota",
            "secrets": "Secret",
            "serviceaccounts": "ServiceAccount",
            "services": "Service",
        },
        "apps/v1": {"deployments": "Deployment"},
        "networking.k8s.io/v1": {"ingresses": "Ingress", "networkpolicies": "NetworkPolicy"},
        "policy/v1": {"poddisruptionbudgets": "PodDisruptionBudget"},
        "rbac.authorization.k8s.io/v1": {"roles": "Role", "rolebindings": "RoleBinding"},
    }

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}

    def install_prometheus_operator(self) -> None:
        """Serve the kinds of the Prometheus operator too."""
        kinds = {"servicemonitors": "ServiceMonitor", "prometheusrules": "PrometheusRule"}
        self.groups = (*self.groups, "monitoring.coreos.com")
        self.resources = {**self.resources, "monitoring.coreos.com/v1": kinds}

    def answer(self, path: str) -> dict[str, Any] | None:
        """The body for a GET of ``path``; None if there is no such thing."""
        versions = [{"groupVersion": f"{group}/v1", "version": "v1"} for group in self.groups]
        if path == "/version":
            return {"major": "1", "minor": "36", "gitVersion": f"v{KUBERNETES}"}
        if path == "/api":
            return {"kind": "APIVersions", "versions": ["v1"]}
        if path == "/apis":
            groups = [
                {"name": group, "versions": [version], "preferredVersion": version}
                for group, version in zip(self.groups, versions, strict=True)
            ]
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
        group_version = path.removeprefix("/apis/").removeprefix("/api/")
        if group_version in self.resources:
            resources = [
                {"name": name, "singularName": "", "namespaced": True, "kind": kind, "verbs": ["get", "list"]}
                for name, kind in self.resources[group_version].items()
            ]
            return {"kind": "APIResourceList", "groupVersion": group_version, "resources": resources}
        if path.endswith("/secrets"):
            return {"kind": "SecretList", "apiVersion": "v1", "items": []}
        return self.objects.get(path)


@pytest.fixture
def cluster(helm: Helm, tmp_path: Path) -> Iterator[ClusterStandIn]:
    """A stand-in for a cluster, to which Helm's ``--kubeconfig`` is set."""
    stand_in = ClusterStandIn()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = stand_in.answer(self.path.partition("?")[0])
            self.send_response(200 if body else 404)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
            self.wfile.write(json.dumps(body or missing).encode())

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    kubeconfig = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "stand-in",
        "clusters": [{"name": "stand-in", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "contexts": [{"name": "stand-in", "context": {"cluster": "stand-in", "user": "stand-in"}}],
        "users": [{"name": "stand-in", "user": {}}],
    }
    file = tmp_path / "kubeconfig"
    file.write_text(yaml.safe_dump(kubeconfig))
    helm.environment["KUBECONFIG"] = str(file)
    yield stand_in
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def install(helm: Helm, cluster: ClusterStandIn) -> Callable[[Mapping[str, Any]], str]:
    """Output of ``helm install``: the manifest and the notes."""

    def run(values: Mapping[str, Any]) -> str:
        command = [
            "install",
            "lab",
            str(CHART),
            "--namespace",
            "team",
            "--dry-run=server",
            "--disable-openapi-validation",
        ]
        done = helm.run(*command, values=merged(MINIMAL, values))
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
