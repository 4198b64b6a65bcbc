"""Privileges of containers, permissions of service accounts, and the Secret."""

import subprocess
from pathlib import Path
from typing import Any

from tests.chart.conftest import CASES, Helm
from tests.chart.manifest import container, mounts, one, pod, pods


def test_no_container_has_root_capabilities_or_a_writable_root(helm: Helm, case: dict[str, Any]) -> None:
    found = list(pods(helm.objects(case)))
    assert len(found) == 3 + bool(case.get("worker", {}).get("warmReplicas")) + ("oidc" in case)
    for one_pod in found:
        spec = one_pod["spec"]
        security = spec["securityContext"]
        assert security["runAsNonRoot"] is True
        chosen = [security.get(key) for key in ("runAsUser", "runAsGroup", "fsGroup")]
        assert chosen == ([None] * 3 if case.get("anyUser") else [1000] * 3), "OpenShift refuses a user of the chart's"
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        assert not any("hostPath" in volume for volume in spec.get("volumes", []))
        [only] = spec["containers"]
        for each in (only, *spec.get("initContainers", [])):
            assert each["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
        assert not any("hostPort" in port for port in only.get("ports", []))


def test_pods_can_write_where_r_needs_it(helm: Helm) -> None:
    objects = helm.objects({})
    for component in ("scheduler", "worker"):
        writable = mounts(objects, component)
        assert writable["/tmp"]["emptyDir"] == {}
        for mount in container(objects, component)["volumeMounts"]:
            assert mount.get("readOnly", False) is mount["mountPath"].startswith("/etc/")
    assert mounts(objects, "worker")["/home/rstudio"]["emptyDir"] == {}
    assert mounts(objects, "scheduler")["/run/future-kubernetes"]["emptyDir"] == {}
    assert "/run/future-kubernetes" not in mounts(objects, "worker"), "nothing on a worker writes there"
    home = mounts(objects, "scheduler")["/home/rstudio"]
    assert home["persistentVolumeClaim"] == {"claimName": "lab-future-kubernetes-home"}
    assert mounts(helm.objects(CASES["no-volumes"]), "scheduler")["/home/rstudio"]["emptyDir"] == {}


def test_workers_see_the_token_and_not_the_password(helm: Helm, case: dict[str, Any]) -> None:
    objects = helm.objects(case)
    for component, keys in (("scheduler", ["password", "token"]), ("worker", ["token"])):
        volume = mounts(objects, component)["/etc/future-kubernetes/secret"]
        assert volume["secret"] == {
            "secretName": "r-login",
            "defaultMode": 0o440,
            "items": [{"key": key, "path": key} for key in keys],
        }
    assert "volumes" not in pod(objects, "test")["spec"]


def test_secret_is_mounted_as_files_never_as_environment_variables(helm: Helm, case: dict[str, Any]) -> None:
    for one_pod in pods(helm.objects(case)):
        [only] = one_pod["spec"]["containers"]
        assert "envFrom" not in only
        sources = [variable.get("valueFrom", {}).get("secretKeyRef", {}) for variable in only.get("env", [])]
        # A user's extraEnv may name a Secret of the user's.
        assert "r-login" not in [source.get("name") for source in sources]
        assert one_pod["spec"]["enableServiceLinks"] is False


def test_only_the_scheduler_has_an_api_token(helm: Helm, case: dict[str, Any]) -> None:
    objects = helm.objects(case)
    tokens = {p["metadata"]["labels"]["component"]: p["spec"]["automountServiceAccountToken"] for p in pods(objects)}
    assert {component for component, mounted in tokens.items() if mounted} == {"scheduler"}
    assert {"worker", "test"} <= set(tokens) <= {"scheduler", "worker", "test", "warm", "login"}
    accounts = {p["metadata"]["labels"]["component"]: p["spec"]["serviceAccountName"] for p in pods(objects)}
    assert accounts["scheduler"] != accounts["worker"] == accounts["test"] == accounts.get("warm", accounts["test"])
    assert accounts.get("login") not in (accounts["scheduler"], accounts["worker"])
    for (kind, _), found in objects.items():
        if kind == "ServiceAccount":
            assert found["automountServiceAccountToken"] is False
    [subject] = one(objects, "RoleBinding", "")["subjects"]
    assert subject == {"kind": "ServiceAccount", "name": accounts["scheduler"], "namespace": "team"}
    assert one(objects, "RoleBinding", "")["roleRef"]["name"] == one(objects, "Role", "")["metadata"]["name"]


def test_scheduler_may_only_read_pods_and_scale_own_workers(helm: Helm) -> None:
    objects = helm.objects({})
    assert not [kind for kind, _ in objects if kind.startswith("ClusterRole")]
    assert one(objects, "Role", "")["rules"] == [
        {"apiGroups": [""], "resources": ["pods", "events"], "verbs": ["get", "list", "watch"]},
        {
            "apiGroups": ["apps"],
            "resources": ["deployments/scale"],
            "resourceNames": [one(objects, "Deployment", "-worker")["metadata"]["name"]],
            "verbs": ["get", "patch"],
        },
    ]


def test_user_that_the_cluster_chooses_is_named_rstudio(helm: Helm, tmp_path: Path) -> None:
    objects = helm.objects(CASES["any-user"])
    for component in ("scheduler", "worker"):
        [init] = pod(objects, component)["spec"]["initContainers"]
        assert init["resources"] == container(objects, component)["resources"], "a quota counts it"
        assert mounts(objects, component)["/etc/passwd"]["name"] == "user"
        (mount,) = (each for each in container(objects, component)["volumeMounts"] if each["name"] == "user")
        assert mount == {"name": "user", "mountPath": "/etc/passwd", "subPath": "passwd", "readOnly": True}
        users = tmp_path / "passwd"
        users.write_text("root:x:0:0:root:/root:/bin/bash\nrstudio:x:1000:1000::/home/rstudio:/bin/bash\n")
        script = init["command"][2].replace("/etc/passwd", str(users)).replace("/user/", f"{tmp_path}/written-")
        subprocess.run(["sh", "-c", f"id() {{ [ $1 = -u ] && echo 1000680000 || echo 0; }}; {script}"], check=True)
        assert (tmp_path / "written-passwd").read_text().splitlines()[1:] == [
            "rstudio:x:1000680000:0::/home/rstudio:/bin/bash"
        ]
    assert "initContainers" not in pod(helm.objects({}), "worker")["spec"]
