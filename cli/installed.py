"""Finds a release that Helm installed without Pulumi, by the current context of a kubeconfig."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

from cli.stack import INSTALL_KUBECTL, Stack
from common.errors import UserError
from common.kubectl import Kubectl, find_program, last_line

LABELS = "app.kubernetes.io/name=future-kubernetes,app.kubernetes.io/component=scheduler"
NEEDED = "get, list services and deployments, get secrets, create pods/portforward"


class Installed(Stack):
    """A release in place of a stack. Its password is an output."""

    @property
    def title(self) -> str:
        """The release as messages name it."""
        return f"release {self.name!r} in namespace {self.kubectl.namespace!r}"

    @property
    def status_command(self) -> str:
        """Command that shows the release's pods."""
        return (
            f"kubectl --namespace {self.kubectl.namespace} get pods --selector app.kubernetes.io/instance={self.name}"
        )

    @property
    def password_command(self) -> str:
        """Command that prints the IDE's password."""
        return f"future-kubernetes connect --namespace {self.kubectl.namespace} --release {self.name} --password"


def installed(namespace: str, release: str, *, with_password: bool) -> Installed:
    """The chart's release in this namespace. release: empty for the only one. Raises UserError."""
    program = find_program("kubectl")
    if program is None:
        raise UserError(
            f"the cluster is reached by kubectl, and there is no `kubectl` on PATH.\n"
            f"Fix: install it ({INSTALL_KUBECTL})"
        )
    kubectl = Kubectl(program, kubeconfig(), namespace)
    found = {
        item["metadata"]["labels"]["app.kubernetes.io/instance"]: item["metadata"]["name"].removesuffix("-scheduler")
        for item in ask(kubectl, "get", "deployments", f"--selector={LABELS}")["items"]
    }
    if not found:
        raise UserError(
            f"namespace {namespace!r} has no release of this chart in the current context of {kubectl.kubeconfig}.\n"
            "Fix: helm list --all-namespaces, then --namespace with that of the release; or: "
            "kubectl config use-context NAME"
        )
    if len(found) > 1 and not release:
        raise UserError(f"namespace {namespace!r} has the releases {', '.join(sorted(found))}.\nFix: --release NAME")
    name = release or next(iter(found))
    if name not in found:
        raise UserError(
            f"namespace {namespace!r} has no release {release!r} of this chart; it has {', '.join(sorted(found))}.\n"
            "Fix: --release with one of these"
        )
    pod = ask(kubectl, "get", f"deployment/{found[name]}-scheduler")["spec"]["template"]["spec"]
    outputs = {"url": f"http://localhost{ide_path(pod)}"}
    if with_password:
        secret = next(each["secret"]["secretName"] for each in pod["volumes"] if each["name"] == "secret")
        outputs["password"] = base64.b64decode(ask(kubectl, "get", f"secret/{secret}")["data"]["password"]).decode()
    return Installed(name, kubectl, found[name], "", (), outputs)


def kubeconfig() -> Path:
    """The file that kubectl would read. Raises UserError where there is none, or are several."""
    text = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube/config")
    if os.pathsep in text or not Path(text).is_file():
        why = "names several files" if os.pathsep in text else "is no file"
        raise UserError(
            f"the kubeconfig {text!r} {why}.\n"
            "Fix: kubectl config view --flatten --minify --raw > one.yaml && export KUBECONFIG=$PWD/one.yaml"
        )
    return Path(text)


def ask(kubectl: Kubectl, *arguments: str) -> Any:
    """kubectl's answer. Raises UserError with kubectl's reason."""
    done = kubectl.run(*arguments, "--output=json")
    if done.returncode != 0:
        raise UserError(
            f"namespace {kubectl.namespace!r} cannot be read: {last_line(done.stderr)}\n"
            f"Fix: kubectl config current-context, and for a role that may: {NEEDED}"
        )
    return json.loads(done.stdout)


def ide_path(pod: dict[str, Any]) -> str:
    """The path below which the IDE is."""
    variables = pod["containers"][0]["env"]
    return next((each["value"] for each in variables if each["name"] == "FUTURE_KUBERNETES_PATH"), "/")
