"""The objects that the chart installs, and how they refer to each other."""

from typing import Any

import pytest

from tests.chart.conftest import CASES, IMAGE, VERSION, Helm
from tests.chart.manifest import SCHEDULER, WORKER, container, env, mounts, one, pod, pods, selects


def test_the_required_values_give_exactly_these_objects(helm: Helm) -> None:
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
        ("no-volumes", "PersistentVolumeClaim", "-home", False),
        ("shared", "PersistentVolumeClaim", "-shared", True),
        ("minimal", "PersistentVolumeClaim", "-shared", False),
        ("host", "Ingress", "-scheduler", True),
        ("minimal", "Ingress", "-scheduler", False),
        ("quota", "ResourceQuota", "lab-future-kubernetes", True),
        ("warm", "Deployment", "-warm", True),
        ("warm", "PriorityClass", "team-lab-future-kubernetes-warm", True),
        ("warm", "NetworkPolicy", "-warm", True),
        ("minimal", "Deployment", "-warm", False),
        ("minimal", "PriorityClass", "", False),
        ("no-network-policy", "NetworkPolicy", "", False),
        ("everything", "PodDisruptionBudget", "", False),
    ],
)
def test_optional_objects_exist_only_with_their_value(helm: Helm, case: str, kind: str, end: str, there: bool) -> None:
    found = [name for its_kind, name in helm.objects(CASES[case]) if its_kind == kind and name.endswith(end)]
    assert bool(found) is there


def test_every_object_has_the_recommended_labels_and_the_namespace(helm: Helm, case: dict[str, Any]) -> None:
    for key, found in helm.objects(case).items():
        labels = found["metadata"]["labels"]
        cluster_wide = found["kind"] == "PriorityClass"
        assert found["metadata"].get("namespace") == (None if cluster_wide else "team"), key
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


def test_pods_have_the_label_by_which_the_recipes_commands_select(helm: Helm) -> None:
    assert [p["metadata"]["labels"]["component"] for p in pods(helm.objects({}))] == ["scheduler", "worker", "test"]


def test_each_selector_finds_only_the_pods_of_its_component(helm: Helm, case: dict[str, Any]) -> None:
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
        component = name.rpartition("-")[2]
        if component == "broker" or kind == "PodDisruptionBudget":
            component = "scheduler"
        components = [
            p["metadata"]["labels"]["component"] for p in pods(objects) if selects(selector, p["metadata"]["labels"])
        ]
        assert components == [component], (kind, name)
        assert not any(selects(selector, p["metadata"]["labels"]) for p in pods(other)), (kind, name)


def test_services_target_named_ports_of_the_scheduler(helm: Helm) -> None:
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
    # The IDE's own Service must not: no user should reach a login page that does not exist.
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
        assert container(objects, component)["env"][-len(given["extraEnv"]) :] == given["extraEnv"]
        limits = container(objects, component)["resources"]["limits"]
        assert limits["cpu"] == given["resources"]["limits"]["cpu"]
        assert limits["memory"], "Helm merges the defaults with what is given"
    spot = pod(helm.objects(CASES["spot"]), "worker")
    assert spot["spec"]["tolerations"] == CASES["spot"]["worker"]["tolerations"]
    assert spot["spec"]["nodeSelector"] == CASES["spot"]["worker"]["nodeSelector"]
    assert spot["spec"]["terminationGracePeriodSeconds"] == 20
    resources = {"requests": {"cpu": "900m", "memory": "3Gi"}, "limits": {"memory": "3Gi"}}
    both = helm.objects({"scheduler": {"resources": resources}, "worker": {"resources": resources}})
    for component in ("scheduler", "worker"):
        assert container(both, component)["resources"] == resources


def test_worker_has_a_linear_algebra_thread_per_requested_core(helm: Helm) -> None:
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


def test_given_storage_class_or_the_clusters_default_is_used(helm: Helm) -> None:
    objects = helm.objects(CASES["shared"])
    home, shared = (one(objects, "PersistentVolumeClaim", end)["spec"] for end in ("-home", "-shared"))
    assert (home["storageClassName"], home["accessModes"]) == ("ssd", ["ReadWriteOnce"])
    assert (shared["storageClassName"], shared["accessModes"]) == ("filestore", ["ReadWriteMany"])
    assert shared["resources"]["requests"]["storage"] == "100Gi"
    # An empty name would mean "no class", not "the default class".
    assert "storageClassName" not in one(helm.objects({}), "PersistentVolumeClaim", "-home")["spec"]


def test_existing_claim_is_mounted_in_place_of_a_new_one(helm: Helm) -> None:
    objects = helm.objects({"shared": {"existingClaim": "lab-files"}})
    for component in ("scheduler", "worker"):
        assert mounts(objects, component)["/shared"]["persistentVolumeClaim"] == {"claimName": "lab-files"}
    claims = [name for kind, name in objects if kind == "PersistentVolumeClaim"]
    assert claims == ["lab-future-kubernetes-home"]


def test_existing_claim_of_a_home_replaces_a_new_one(helm: Helm) -> None:
    for gib in (10, 0):
        objects = helm.objects({"scheduler": {"homeExistingClaim": "lab-home", "homeGiB": gib}})
        volume = mounts(objects, "scheduler")["/home/rstudio"]
        assert volume["persistentVolumeClaim"] == {"claimName": "lab-home"}
        assert not [name for kind, name in objects if kind == "PersistentVolumeClaim"]


def test_claim_of_a_home_stays_with_keep_home_only(helm: Helm) -> None:
    kept = one(helm.objects({"scheduler": {"keepHome": True}}), "PersistentVolumeClaim", "-home")
    assert kept["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert "annotations" not in one(helm.objects({}), "PersistentVolumeClaim", "-home")["metadata"]


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
    assert path["path"] == "/"
    own = one(helm.objects(CASES["everything"]), "Ingress", "-scheduler")
    assert own["spec"]["rules"][0]["http"]["paths"][0]["path"] == "/team/r/"
    assert own["spec"]["tls"] == [{"hosts": ["r.example.org"]}]
    assert "ingressClassName" not in own["spec"]


def test_placeholder_has_the_room_of_a_worker_and_yields(helm: Helm) -> None:
    objects = helm.objects(CASES["warm"])
    placeholder, worker = pod(objects, "warm")["spec"], pod(objects, "worker")["spec"]
    for key in ("nodeSelector", "tolerations", "affinity", "imagePullSecrets", "securityContext"):
        assert placeholder[key] == worker[key], key
    (held,) = placeholder["containers"]
    assert held["resources"] == container(objects, "worker")["resources"]
    assert held["image"] == container(objects, "worker")["image"], "the image is on the node when a worker comes"
    assert held["command"] == ["sleep", "infinity"], "one that ends is started again and again"
    assert placeholder["terminationGracePeriodSeconds"] == 0
    rolling = objects["Deployment", "lab-future-kubernetes-warm"]["spec"]["strategy"]["rollingUpdate"]
    assert rolling == {"maxSurge": 0, "maxUnavailable": "100%"}, "Helm would wait for nodes that no one has"
    annotations = pod(objects, "warm")["metadata"]["annotations"]
    assert annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "true", "its node would stay, and be billed"
    priority = objects["PriorityClass", placeholder["priorityClassName"]]
    assert priority["value"] == -10, "below -10 a cluster autoscaler adds no node"
    assert priority["preemptionPolicy"] == "Never"
    assert priority["globalDefault"] is False


def test_given_priority_class_is_used_and_none_is_made(helm: Helm) -> None:
    given = {**CASES["warm"], "worker": {**CASES["warm"]["worker"], "warmPriorityClassName": "spare"}}
    objects = helm.objects(given)
    assert pod(objects, "warm")["spec"]["priorityClassName"] == "spare"
    assert "PriorityClass" not in {kind for kind, _ in objects}


def test_broker_may_scale_placeholders_only_where_there_are_some(helm: Helm) -> None:
    def scalable(case: str) -> set[str]:
        rules = helm.objects(CASES[case])["Role", SCHEDULER]["rules"]
        return {name for rule in rules for name in rule.get("resourceNames", [])}

    assert scalable("warm") == {WORKER, "lab-future-kubernetes-warm"}
    assert scalable("minimal") == {WORKER}


def test_the_ides_path_reaches_server_and_probes(helm: Helm) -> None:
    for path, told in (("/team/r/", ["/team/r/"]), ("/", [])):
        objects = helm.objects({"ingress": {"path": path}})
        [container] = objects["Deployment", SCHEDULER]["spec"]["template"]["spec"]["containers"]
        assert [each["value"] for each in container["env"] if each["name"] == "FUTURE_KUBERNETES_PATH"] == told
        for probe in ("startupProbe", "livenessProbe"):
            assert container[probe]["httpGet"]["path"] == f"{path}login"
        assert f"127.0.0.1 8787 {path}login && " in container["readinessProbe"]["exec"]["command"][2]
        [tried] = [each for (kind, _), each in objects.items() if kind == "Pod"]
        assert f" 8787 {path}login &&" in tried["spec"]["containers"][0]["command"][2]
