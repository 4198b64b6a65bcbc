"""The structure of what the chart installs, on each kind of values."""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from .conftest import CASES, CHART, IMAGE, VERSION, Helm

Object = dict[str, Any]
Objects = dict[tuple[str, str], Object]

SCHEDULER = "lab-future-kubernetes-scheduler"
WORKER = "lab-future-kubernetes-worker"


def pods(objects: Objects) -> Iterator[Object]:
    """Every pod or pod template, as an object with metadata and spec."""
    for (kind, _), found in objects.items():
        if kind == "Pod":
            yield found
        elif kind == "Deployment":
            yield found["spec"]["template"]


def pod(objects: Objects, component: str) -> Object:
    """The one pod of a component: scheduler, worker or test."""
    [found] = [pod for pod in pods(objects) if pod["metadata"]["labels"]["component"] == component]
    return found


def container(objects: Objects, component: str) -> Object:
    [found] = pod(objects, component)["spec"]["containers"]
    return dict(found)


def mounts(objects: Objects, component: str) -> dict[str, Object]:
    """For each path that a pod mounts, the volume that is there."""
    volumes = {volume["name"]: volume for volume in pod(objects, component)["spec"].get("volumes", [])}
    mounted = {mount["mountPath"]: volumes[mount["name"]] for mount in container(objects, component)["volumeMounts"]}
    assert len(mounted) == len(volumes), "a volume is mounted nowhere, or two at one path"
    return mounted


def one(objects: Objects, kind: str, end: str) -> Object:
    """The object of a kind whose name ends so."""
    [found] = [found for (its_kind, name), found in objects.items() if its_kind == kind and name.endswith(end)]
    return found


def env(objects: Objects, component: str) -> dict[str, Object]:
    return {variable["name"]: variable for variable in container(objects, component)["env"]}


def selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return selector.items() <= labels.items()


# What is there


def test_the_least_values_give_exactly_these_objects(helm: Helm) -> None:
    assert set(helm.objects({})) == {
        ("ConfigMap", "lab-future-kubernetes-config"),
        ("Deployment", SCHEDULER),
        ("Deployment", WORKER),
        ("NetworkPolicy", SCHEDULER),
        ("NetworkPolicy", WORKER),
        ("NetworkPolicy", "lab-future-kubernetes-test"),
        ("PersistentVolumeClaim", "lab-future-kubernetes-home"),
        ("Pod", "lab-future-kubernetes-test"),
        ("PodDisruptionBudget", SCHEDULER),
        ("Role", SCHEDULER),
        ("RoleBinding", SCHEDULER),
        ("Service", SCHEDULER),
        ("Service", "lab-future-kubernetes-broker"),
        ("ServiceAccount", SCHEDULER),
        ("ServiceAccount", WORKER),
    }


@pytest.mark.parametrize(
    ("case", "kind", "end", "there"),
    [
        ("no volumes", "PersistentVolumeClaim", "-home", False),
        ("shared", "PersistentVolumeClaim", "-shared", True),
        ("minimal", "PersistentVolumeClaim", "-shared", False),
        ("host", "Ingress", "-scheduler", True),
        ("minimal", "Ingress", "-scheduler", False),
        ("quota", "ResourceQuota", "lab-future-kubernetes", True),
        ("no network policy", "NetworkPolicy", "", False),
        ("everything", "PodDisruptionBudget", "", False),
    ],
)
def test_optional_objects_are_there_only_when_asked_for(
    helm: Helm, case: str, kind: str, end: str, there: bool
) -> None:
    found = [name for its_kind, name in helm.objects(CASES[case]) if its_kind == kind and name.endswith(end)]
    assert bool(found) is there


def test_every_object_has_the_recommended_labels_and_the_namespace(helm: Helm, case: dict[str, Any]) -> None:
    for key, found in helm.objects(case).items():
        labels = found["metadata"]["labels"]
        assert found["metadata"]["namespace"] == "team", key
        assert labels["app.kubernetes.io/name"] == "future-kubernetes", key
        assert labels["app.kubernetes.io/instance"] == "lab", key
        assert labels["app.kubernetes.io/part-of"] == "future-kubernetes", key
        assert "app.kubernetes.io/component" in labels, key
        if found["kind"] != "Pod":
            assert labels["app.kubernetes.io/managed-by"] == "Helm", key
            assert labels["helm.sh/chart"] == f"future-kubernetes-{VERSION}", key
        assert case.get("labels", {}).items() <= labels.items(), key


def test_cost_labels_reach_every_pod(helm: Helm) -> None:
    found = list(pods(helm.objects(CASES["everything"])))
    assert len(found) == 3
    for one_pod in found:
        assert one_pod["metadata"]["labels"]["cost-centre"] == "42"


def test_pods_carry_the_label_that_the_recipes_commands_select_by(helm: Helm) -> None:
    assert [p["metadata"]["labels"]["component"] for p in pods(helm.objects({}))] == ["scheduler", "worker", "test"]


# Wiring


def test_each_selector_finds_the_pods_of_its_component_and_no_others(helm: Helm, case: dict[str, Any]) -> None:
    objects = helm.objects(case)
    other = helm.objects({**case, "fullnameOverride": ""}, release="other")
    selectors = {}
    for (kind, name), found in objects.items():
        spec = found.get("spec", {})
        if kind == "Service":
            selectors[kind, name] = spec["selector"]
        elif kind in ("Deployment", "PodDisruptionBudget"):
            selectors[kind, name] = spec["selector"]["matchLabels"]
        elif kind == "NetworkPolicy":
            selectors[kind, name] = spec["podSelector"]["matchLabels"]
    assert len(selectors) >= 4
    for (kind, name), selector in selectors.items():
        component = "scheduler" if kind in ("Service", "PodDisruptionBudget") else name.rpartition("-")[2]
        components = [
            p["metadata"]["labels"]["component"] for p in pods(objects) if selects(selector, p["metadata"]["labels"])
        ]
        assert components == [component], (kind, name)
        assert not any(selects(selector, p["metadata"]["labels"]) for p in pods(other)), (kind, name)


def test_services_lead_to_ports_that_the_scheduler_names(helm: Helm) -> None:
    objects = helm.objects({})
    ports = {port["name"]: port["containerPort"] for port in container(objects, "scheduler")["ports"]}
    assert ports == {"ide": 8787, "future": 8786, "http": 8785}
    for end, names in (("-scheduler", ["ide"]), ("-broker", ["future", "http"])):
        service_ports = one(objects, "Service", end)["spec"]["ports"]
        assert [port["name"] for port in service_ports] == names
        for port in service_ports:
            assert port["port"] == ports[port["targetPort"]]


def test_workers_reach_the_broker_before_the_ide_is_ready(helm: Helm, case: dict[str, Any]) -> None:
    objects = helm.objects(case)
    service = one(objects, "Service", "-broker")
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert env(objects, "worker")["FUTURE_KUBERNETES_SCHEDULER"]["value"] == service["metadata"]["name"]
    # The IDE's own Service must not: nobody should be sent to a login page that is not there.
    assert "publishNotReadyAddresses" not in one(objects, "Service", "-scheduler")["spec"]


def test_pods_get_the_environment_that_the_image_reads(helm: Helm) -> None:
    objects = helm.objects(CASES["jupyterlab"])
    for component in ("scheduler", "worker"):
        variables = env(objects, component)
        assert variables["USER"]["value"] == "rstudio"
        assert variables["HOME"]["value"] == "/home/rstudio"
        assert variables["FUTURE_KUBERNETES_RELEASE"]["value"] == "lab-future-kubernetes"
        for name, path in (
            ("FUTURE_KUBERNETES_NAMESPACE", "metadata.namespace"),
            ("POD_NAME", "metadata.name"),
            ("NODE_NAME", "spec.nodeName"),
        ):
            assert variables[name]["valueFrom"] == {"fieldRef": {"fieldPath": path}}
    assert env(objects, "scheduler")["FUTURE_KUBERNETES_IDE"]["value"] == "jupyterlab"


def test_pods_run_the_given_image_and_its_commands(helm: Helm, case: dict[str, Any]) -> None:
    objects = helm.objects(case)
    for component in ("scheduler", "worker"):
        assert container(objects, component)["image"] == IMAGE
        assert container(objects, component)["command"] == [f"/usr/local/bin/future-{component}"]


def test_values_for_a_component_reach_its_pod(helm: Helm) -> None:
    objects = helm.objects(CASES["everything"])
    for component in ("scheduler", "worker", "test"):
        assert pod(objects, component)["spec"]["imagePullSecrets"] == [{"name": "regcred"}]
        assert container(objects, component)["imagePullPolicy"] == "Always"
    for component, keys in (
        ("scheduler", ("priorityClassName", "nodeSelector", "tolerations", "affinity")),
        ("worker", ("priorityClassName", "affinity")),
    ):
        for key in keys:
            assert pod(objects, component)["spec"][key] == CASES["everything"][component][key]
        given = CASES["everything"][component]
        assert given["podAnnotations"].items() <= pod(objects, component)["metadata"]["annotations"].items()
        assert given["extraEnv"][0] in container(objects, component)["env"]
    spot = pod(helm.objects(CASES["spot"]), "worker")
    assert spot["spec"]["tolerations"] == CASES["spot"]["worker"]["tolerations"]
    assert spot["spec"]["nodeSelector"] == CASES["spot"]["worker"]["nodeSelector"]
    assert spot["spec"]["terminationGracePeriodSeconds"] == 20
    resources = {"requests": {"cpu": "900m", "memory": "3Gi"}, "limits": {"memory": "3Gi"}}
    both = helm.objects({"scheduler": {"resources": resources}, "worker": {"resources": resources}})
    for component in ("scheduler", "worker"):
        assert container(both, component)["resources"] == resources


def test_a_workers_linear_algebra_takes_as_many_threads_as_the_cores_that_it_asks_for(helm: Helm) -> None:
    def threads(**worker: object) -> list[dict[str, object]]:
        env = container(helm.objects({"worker": worker}), "worker")["env"]
        return [variable for variable in env if variable["name"] == "OMP_NUM_THREADS"]

    # Kubernetes rounds up to a multiple of the divisor: 900m is one.
    (variable,) = threads()
    assert variable["valueFrom"] == {"resourceFieldRef": {"resource": "requests.cpu", "divisor": "1"}}
    own = {"name": "OMP_NUM_THREADS", "value": "4"}
    assert threads(extraEnv=[{"name": "A", "value": "b"}, own]) == [own]
    assert threads(resources={"requests": {"cpu": None}}) == []


def test_a_spread_without_a_selector_counts_this_releases_workers(helm: Helm) -> None:
    objects = helm.objects(CASES["everything"])
    [spread] = pod(objects, "worker")["spec"]["topologySpreadConstraints"]
    assert spread.items() >= CASES["everything"]["worker"]["topologySpreadConstraints"][0].items()
    selector = one(objects, "Deployment", "-worker")["spec"]["selector"]
    assert spread["labelSelector"] == selector
    own = {
        "maxSkew": 1,
        "topologyKey": "a",
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"a": "b"}},
    }
    [spread] = pod(helm.objects({"worker": {"topologySpreadConstraints": [own]}}), "worker")["spec"][
        "topologySpreadConstraints"
    ]
    assert spread == own


def test_a_given_storage_class_is_used_and_else_the_clusters_default(helm: Helm) -> None:
    objects = helm.objects(CASES["shared"])
    home, shared = (one(objects, "PersistentVolumeClaim", end)["spec"] for end in ("-home", "-shared"))
    assert (home["storageClassName"], home["accessModes"]) == ("ssd", ["ReadWriteOnce"])
    assert (shared["storageClassName"], shared["accessModes"]) == ("filestore", ["ReadWriteMany"])
    assert shared["resources"]["requests"]["storage"] == "100Gi"
    # An empty name would mean "no class", not "the default class".
    assert "storageClassName" not in one(helm.objects({}), "PersistentVolumeClaim", "-home")["spec"]


def test_shared_files_are_mounted_in_scheduler_and_workers(helm: Helm) -> None:
    objects = helm.objects(CASES["shared"])
    for component in ("scheduler", "worker"):
        volume = mounts(objects, component)["/shared"]
        assert volume["persistentVolumeClaim"] == {"claimName": "lab-future-kubernetes-shared"}
        assert "/shared" not in mounts(helm.objects({}), component)


def test_the_ingress_serves_the_ide_by_tls_only(helm: Helm) -> None:
    ingress = one(helm.objects(CASES["host"]), "Ingress", "-scheduler")
    assert ingress["spec"]["tls"] == [{"hosts": ["r.example.org"], "secretName": "r-tls"}]
    [rule] = ingress["spec"]["rules"]
    assert rule["host"] == "r.example.org"
    [path] = rule["http"]["paths"]
    assert path["backend"]["service"] == {"name": SCHEDULER, "port": {"name": "ide"}}
    assert ingress["spec"]["ingressClassName"] == "nginx"
    assert ingress["metadata"]["annotations"] == CASES["host"]["ingress"]["annotations"]
    own = one(helm.objects(CASES["everything"]), "Ingress", "-scheduler")
    assert own["spec"]["tls"] == [{"hosts": ["r.example.org"]}]
    assert "ingressClassName" not in own["spec"]


# The number of workers, and what must not restart the scheduler


def test_the_scheduler_is_the_same_to_the_byte_when_only_workers_change(helm: Helm) -> None:
    show = ("--show-only", "templates/scheduler-deployment.yaml")
    before = helm.template({}, *show)
    for values in (
        {"worker": {"replicas": 40}},
        {"worker": {"replicas": 0}},
        {"worker": {"maxReplicas": 99}},
        {"idleMinutes": 30},
        {"ttlHours": 30},
        {"worker": {"resources": {"requests": {"cpu": 3}}, "nodeSelector": {"a": "b"}, "gracePeriodSeconds": 9}},
        CASES["spot"],
        CASES["quota"],
        CASES["closed network"],
        {"ingress": {"className": "nginx"}, "service": {"annotations": {"a": "b"}}},
        {"host": "r.example.org"},
    ):
        assert helm.template(values, *show) == before, values
    assert helm.template({"image": "another"}, *show) != before


def test_a_new_chart_version_alone_restarts_no_pod(helm: Helm, tmp_path: Path) -> None:
    before = helm.objects({})
    helm.chart = shutil.copytree(CHART, tmp_path / "chart")
    description = helm.chart / "Chart.yaml"
    description.write_text(description.read_text().replace(f"\nversion: {VERSION}", "\nversion: 9.9.9"))
    after = helm.objects({})
    assert after["Deployment", SCHEDULER]["metadata"]["labels"]["helm.sh/chart"] == "future-kubernetes-9.9.9"
    assert list(pods(after)) == list(pods(before))


def test_the_scheduler_reads_worker_numbers_from_a_live_file(helm: Helm) -> None:
    objects = helm.objects(CASES["rstudio"])
    config = mounts(objects, "scheduler")["/etc/future-kubernetes/config"]["configMap"]["name"]
    assert objects["ConfigMap", config]["data"] == {
        "workers": "4",
        "maxWorkers": "40",
        "idleMinutes": "30",
        "ttlHours": "0",
    }
    # A file mounted by subPath would never change in a running pod.
    assert not any("subPath" in mount for mount in container(objects, "scheduler")["volumeMounts"])
    assert one(helm.objects({}), "ConfigMap", "-config")["data"]["maxWorkers"] == "2"


@pytest.mark.parametrize(("case", "number"), [("minimal", 2), ("rstudio", 4), ("zero workers", 0)])
def test_the_worker_deployment_has_as_many_replicas_as_asked(helm: Helm, case: str, number: int) -> None:
    deployment = one(helm.objects(CASES[case]), "Deployment", "-worker")
    assert deployment["spec"]["replicas"] == number
    assert deployment["metadata"]["annotations"] == {"future-kubernetes/replicas": str(number)}


def test_an_update_never_starts_a_second_scheduler_or_a_surplus_worker(helm: Helm, case: dict[str, Any]) -> None:
    objects = helm.objects(case)
    scheduler = one(objects, "Deployment", "-scheduler")["spec"]
    assert (scheduler["replicas"], scheduler["strategy"]) == (1, {"type": "Recreate"})
    assert one(objects, "Deployment", "-worker")["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == 0


def test_autoscalers_and_drains_leave_sessions_alone(helm: Helm) -> None:
    annotation = "cluster-autoscaler.kubernetes.io/safe-to-evict"
    objects = helm.objects({})
    assert pod(objects, "scheduler")["metadata"]["annotations"][annotation] == "false"
    assert pod(objects, "worker")["metadata"]["annotations"][annotation] == "false"
    assert pod(helm.objects(CASES["spot"]), "worker")["metadata"]["annotations"][annotation] == "true"
    assert one(objects, "PodDisruptionBudget", "")["spec"]["minAvailable"] == 1


# Rights and secrets


def test_no_container_has_root_capabilities_or_a_writable_root(helm: Helm, case: dict[str, Any]) -> None:
    found = list(pods(helm.objects(case)))
    assert len(found) == 3
    for one_pod in found:
        spec = one_pod["spec"]
        security = spec["securityContext"]
        assert security["runAsNonRoot"] is True
        assert (security["runAsUser"], security["runAsGroup"], security["fsGroup"]) == (1000, 1000, 1000)
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        assert not any("hostPath" in volume for volume in spec.get("volumes", []))
        [only] = spec["containers"]
        assert only["securityContext"] == {
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
    assert mounts(helm.objects(CASES["no volumes"]), "scheduler")["/home/rstudio"]["emptyDir"] == {}


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


def test_the_secret_comes_as_files_and_never_as_environment(helm: Helm, case: dict[str, Any]) -> None:
    for one_pod in pods(helm.objects(case)):
        [only] = one_pod["spec"]["containers"]
        assert "envFrom" not in only
        assert not any("secretKeyRef" in variable.get("valueFrom", {}) for variable in only.get("env", []))
        assert one_pod["spec"]["enableServiceLinks"] is False


def test_only_the_scheduler_has_an_api_token(helm: Helm, case: dict[str, Any]) -> None:
    objects = helm.objects(case)
    tokens = {p["metadata"]["labels"]["component"]: p["spec"]["automountServiceAccountToken"] for p in pods(objects)}
    assert tokens == {"scheduler": True, "worker": False, "test": False}
    accounts = {p["metadata"]["labels"]["component"]: p["spec"]["serviceAccountName"] for p in pods(objects)}
    assert accounts["scheduler"] != accounts["worker"] == accounts["test"]
    for (kind, _), found in objects.items():
        if kind == "ServiceAccount":
            assert found["automountServiceAccountToken"] is False
    [subject] = one(objects, "RoleBinding", "")["subjects"]
    assert subject == {"kind": "ServiceAccount", "name": accounts["scheduler"], "namespace": "team"}
    assert one(objects, "RoleBinding", "")["roleRef"]["name"] == one(objects, "Role", "")["metadata"]["name"]


def test_the_scheduler_may_look_at_pods_and_scale_its_own_workers_and_nothing_else(helm: Helm) -> None:
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


# Network


def test_nothing_connects_to_a_worker(helm: Helm) -> None:
    spec = one(helm.objects({}), "NetworkPolicy", "-worker")["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in spec


def test_only_this_releases_workers_reach_the_broker(helm: Helm) -> None:
    objects = helm.objects({})
    rules = one(objects, "NetworkPolicy", "-scheduler")["spec"]["ingress"]
    [rule] = [rule for rule in rules if {"protocol": "TCP", "port": "future"} in rule["ports"]]
    assert len(rule["ports"]) == 1
    [peer] = rule["from"]
    assert set(peer) == {"podSelector"}
    assert selects(peer["podSelector"]["matchLabels"], pod(objects, "worker")["metadata"]["labels"])
    for labels in (pod(objects, "test"), pod(helm.objects({}, release="other"), "worker")):
        assert not selects(peer["podSelector"]["matchLabels"], labels["metadata"]["labels"])


def test_the_ide_is_reached_from_outside_the_cluster_only_with_a_host(helm: Helm) -> None:
    def ide_rule(values: Mapping[str, Any]) -> Object:
        rules = one(helm.objects(values), "NetworkPolicy", "-scheduler")["spec"]["ingress"]
        [rule] = [rule for rule in rules if {"protocol": "TCP", "port": "ide"} in rule["ports"]]
        return dict(rule)

    assert ide_rule({}) == {"ports": [{"protocol": "TCP", "port": "ide"}], "from": [{"namespaceSelector": {}}]}
    assert ide_rule(CASES["host"]) == {"ports": [{"protocol": "TCP", "port": "ide"}]}


def test_metrics_are_read_by_those_named_and_the_test_pod(helm: Helm) -> None:
    for values, more in (({}, []), (CASES["closed network"], CASES["closed network"]["networkPolicy"]["metricsFrom"])):
        objects = helm.objects(values)
        rules = one(objects, "NetworkPolicy", "-scheduler")["spec"]["ingress"]
        [rule] = [rule for rule in rules if {"protocol": "TCP", "port": "http"} in rule["ports"]]
        own, *others = rule["from"]
        assert others == more
        assert selects(own["podSelector"]["matchLabels"], pod(objects, "test")["metadata"]["labels"])


def egress(objects: Objects, component: str) -> list[Object]:
    return list(one(objects, "NetworkPolicy", f"-{component}")["spec"]["egress"])


def test_workers_reach_dns_the_broker_and_public_addresses(helm: Helm) -> None:
    objects = helm.objects({})
    dns, broker, internet = egress(objects, "worker")
    assert dns == {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]}
    assert broker["ports"] == [{"protocol": "TCP", "port": "future"}]
    [peer] = broker["to"]
    assert selects(peer["podSelector"]["matchLabels"], pod(objects, "scheduler")["metadata"]["labels"])
    assert [block["ipBlock"]["cidr"] for block in internet["to"]] == ["0.0.0.0/0", "::/0"]
    # Clouds hand out the node's credentials at 169.254.169.254.
    assert "169.254.0.0/16" in internet["to"][0]["ipBlock"]["except"]
    assert len(egress(helm.objects({"networkPolicy": {"workerInternet": False}}), "worker")) == 2


def test_the_scheduler_reaches_dns_the_api_server_and_public_addresses(helm: Helm) -> None:
    _, api, internet = egress(helm.objects({}), "scheduler")
    assert [port["port"] for port in api["ports"]] == [443, 6443]
    assert "169.254.0.0/16" in internet["to"][0]["ipBlock"]["except"]
    closed = egress(helm.objects(CASES["closed network"]), "scheduler")
    assert closed[1:] == [
        {"ports": [{"protocol": "TCP", "port": 443}], "to": [{"ipBlock": {"cidr": "10.0.0.1/32"}}]},
        *CASES["closed network"]["networkPolicy"]["extraEgress"],
    ]


# Names


def names(objects: Objects) -> set[tuple[str, str]]:
    return set(objects)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("lab", "lab2"),
        ("a", "b"),
        ("department-of-statistics-course-152-a", "department-of-statistics-course-152-b"),
        (53 * "a", 52 * "a" + "b"),
    ],
)
def test_two_releases_in_one_namespace_share_no_name(helm: Helm, first: str, second: str) -> None:
    case = {**CASES["host"], **CASES["shared"], **CASES["quota"]}
    one_release, other = helm.objects(case, release=first), helm.objects(case, release=second)
    assert len(one_release) == len(other) == 18
    assert not names(one_release) & names(other)


def test_a_release_name_that_contains_the_charts_name_is_not_repeated(helm: Helm) -> None:
    found = helm.objects({}, release="my-future-kubernetes")
    assert ("Deployment", "my-future-kubernetes-worker") in found


def test_an_override_gives_the_names_of_the_recipe(helm: Helm) -> None:
    assert ("Service", "future-scheduler") in helm.objects({"fullnameOverride": "future"})


@pytest.mark.parametrize("release", ["a", "r-" + 20 * "ab", 53 * "a", 28 * "a" + "-" + 20 * "b"])
def test_pod_names_fit_a_host_name(helm: Helm, release: str) -> None:
    # Kubernetes appends "-" and a hash of at most 10 characters, then "-" and 5 more; it cuts the host name at 63, and
    # workers cut so could no longer be told apart.
    for kind, name in helm.objects({}, release=release):
        assert len(name) <= 63
        assert "--" not in name
        if kind == "Deployment":
            assert len(name) + 17 <= 63


# The chart's own files


def leaves(value: Any, path: str = "") -> Iterator[str]:
    if isinstance(value, dict) and value:
        for key, below in value.items():
            yield from leaves(below, f"{path}.{key}" if path else key)
    else:
        yield path


def test_each_value_is_commented_on_its_line() -> None:
    for line in (CHART / "values.yaml").read_text().splitlines():
        if line and not line.lstrip().startswith("#") and not line.endswith(":"):
            inside_resources = line.lstrip().startswith(("requests:", "limits:"))
            assert inside_resources or "  # " in line, line


def test_the_schema_and_the_defaults_have_the_same_keys() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = yaml.safe_load((CHART / "values.schema.json").read_text())

    def compare(defaults: Object, described: Object, path: str) -> None:
        assert described["additionalProperties"] is False, path
        assert set(described["properties"]) - {"global"} == set(defaults), path
        for key, below in described["properties"].items():
            if "properties" in below:
                compare(defaults[key], below, f"{path}.{key}")

    compare(values, schema, "values")


def test_news_tells_of_the_charts_version() -> None:
    assert f"\n## {VERSION}\n" in (CHART / "NEWS.md").read_text()
