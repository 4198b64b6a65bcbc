"""`helm upgrade` of a release in use: from the first chart to today's, and from today's to one with other workers.

With `pauseRollouts` a session and its maps live on also through the first, which changes the scheduler's pod. Further
workers do not connect until that pause ends: the first chart's pods know the broker's Service by its former name.

fixtures/chart-0.1.0.tgz is the chart as it was at version 0.1.0, since a shallow clone has no history to take it from.
"""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.release import install
from common.paths import REPO
from common.patience import patience
from local import cluster
from tests.e2e.conftest import SMALL_POD, Stack

pytestmark = pytest.mark.timeout(600)

FIRST_CHART = Path(__file__).with_name("fixtures") / "chart-0.1.0.tgz"
CHART = REPO / "chart"
NAMESPACE = "upgrade"
NAME = "upgrade"
HOME = "/var/lib/upgrade-home"

VOLUME = {
    "apiVersion": "v1",
    "kind": "PersistentVolume",
    "metadata": {"name": "upgrade-home"},
    "spec": {
        "storageClassName": "upgrade-home",
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"],
        "hostPath": {"path": HOME},
    },
}
"""The local cluster provides no volumes by itself."""


@dataclass(frozen=True)
class Release:
    """A Helm release on the tests' cluster, with ways to change it and to look at it."""

    node: cluster.Node
    values: dict[str, Any]

    def upgrade(self, chart: Path, pause: bool = False, **worker: Any) -> None:
        """`helm upgrade` to ``chart``, with other values of the workers; returns when every pod is ready.

        pause: leave the pods that run as they are.
        """
        values = {**self.values, "worker": {**self.values["worker"], **worker}}
        if pause:
            values["pauseRollouts"] = True
        command = [
            str(self.node.programs / "helm"), "--kubeconfig", str(self.node.kubeconfig), "-n", NAMESPACE, "upgrade",
            NAME, str(chart), "--wait", f"--timeout={patience(300):.0f}s", "-f", "-",
        ]  # fmt: skip
        done = subprocess.run(command, input=json.dumps(values), text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr + self.kubectl("get", "pods", "-o", "wide")
        if pause:  # no rollout begins, so none ends
            return
        # Helm waits for the scheduler only.
        self.kubectl(
            "rollout", "status", f"deploy/{NAME}-worker", f"--timeout={patience(180):.0f}s", timeout=patience(200)
        )

    def kubectl(self, *arguments: str, **options: Any) -> str:
        return self.node.kubectl("-n", NAMESPACE, *arguments, **options).stdout

    def r(self, code: str, timeout: float = 240) -> str:
        """The output of an R program in the scheduler pod."""
        program = f"suppressMessages({{library(future.kubernetes); library(future.apply)}})\n{code}"
        where = f"deploy/{NAME}-scheduler"
        return self.kubectl("exec", "-i", where, "--", "Rscript", "-", input=program, timeout=patience(timeout))

    def in_scheduler(self, script: str) -> None:
        """Runs a bash script in the scheduler pod."""
        self.kubectl("exec", f"deploy/{NAME}-scheduler", "--", "bash", "-c", script, timeout=patience(150))

    def pods(self, component: str) -> dict[str, int]:
        """The names of a component's pods that are not being deleted, each with its container's restarts."""
        found = json.loads(self.kubectl("get", "pods", "-l", f"component={component}", "-o", "json"))["items"]
        return {
            pod["metadata"]["name"]: pod["status"]["containerStatuses"][0]["restartCount"]
            for pod in found
            if "deletionTimestamp" not in pod["metadata"]
        }

    def template(self, component: str) -> dict[str, Any]:
        """The pod template of a component."""
        found = json.loads(self.kubectl("get", f"deploy/{NAME}-{component}", "-o", "json"))
        return dict(found["spec"]["template"])


@pytest.fixture(scope="module")
def release(stack: Stack) -> Iterator[Release]:
    """A release of the first chart, with today's image, a file in its home volume, and a third worker by R."""
    node = stack.node
    values = {
        "image": stack.config["image"],
        "ide": "jupyterlab",
        "fullnameOverride": NAME,
        "auth": {"existingSecret": "bench"},
        "scheduler": {"homeGiB": 1, "homeStorageClass": "upgrade-home", "resources": SMALL_POD},
        "worker": {"replicas": 2, "maxReplicas": 4, "resources": SMALL_POD},
    }
    node.run("mkdir", "--mode=777", HOME)
    node.kubectl("apply", "-f", "-", input=json.dumps(VOLUME))
    try:
        install(node, NAMESPACE, NAME, secrets.token_urlsafe(32), values, chart=FIRST_CHART)
        found = Release(node, values)
        found.r('scale_workers(3); writeLines("kept", "~/results.txt")')
        yield found
    finally:
        node.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", f"--timeout={patience(120):.0f}s")
        node.kubectl("delete", "pv", "upgrade-home", "--ignore-not-found", f"--timeout={patience(60):.0f}s")
        node.run("rm", "-rf", HOME)


MAPS = """
    plan(kubernetes, workers = 2)
    in_memory <- rnorm(1)
    kept <- in_memory
    used <- character()
    for (i in 1:200) {
      square <- function(i) { Sys.sleep(0.5); c(i^2, Sys.info()[["nodename"]]) }
      found <- future_sapply(1:10, square, future.chunk.size = 1)
      stopifnot(as.numeric(found[1, ]) == (1:10)^2, identical(kept, in_memory))
      used <- union(used, found[2, ])
      if (file.exists("/tmp/upgraded")) break
      file.create("/tmp/computes")
    }
    stopifnot(file.exists("/tmp/upgraded"))
    cat("USED", used)
"""
"""Maps in one session, one after another, until the upgrade is through; then the pods that computed."""


@contextmanager
def maps(release: Release) -> Iterator[set[str]]:
    """Maps in an R session, from before the block to after it; then the set holds the pods that computed."""
    used: set[str] = set()
    printed: list[str] = []
    release.in_scheduler("rm -f /tmp/computes /tmp/upgraded")
    session = threading.Thread(target=lambda: printed.append(release.r(MAPS)))
    session.start()
    release.in_scheduler(
        f"for _ in {{1..{patience(240):.0f}}}; do [ -e /tmp/computes ] && exit; sleep 0.5; done; exit 1"
    )
    yield used
    release.in_scheduler("touch /tmp/upgraded")
    session.join(patience(240))
    assert printed, "the R session has failed"
    used |= set(printed[0].split("USED ")[1].split())


def test_session_and_its_maps_live_on_through_paused_upgrade(release: Release) -> None:
    scheduler, workers = release.pods("scheduler"), release.pods("worker")
    templates = [release.template(component) for component in ("scheduler", "worker")]

    with maps(release) as used:
        release.upgrade(CHART, pause=True)
        changed = [release.template(component) for component in ("scheduler", "worker")]
        assert all(now != before for now, before in zip(changed, templates, strict=True)), "the upgrade changed no pod"

    assert release.pods("scheduler") == scheduler, "the same pod, without a restart of its container"
    assert release.pods("worker") == workers
    assert used <= workers.keys()


def test_upgrade_from_the_first_chart_keeps_files_login_and_workers(release: Release) -> None:
    before = release.pods("scheduler")
    login = release.kubectl("get", "secret", "bench", "-o", "jsonpath={.data}")
    # From here on Kubernetes refuses a pod that needs more than the strictest level allows.
    release.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")

    release.upgrade(CHART)

    # The pod template lost a variable that nothing read, so this one upgrade restarts the scheduler: NEWS.md says so.
    assert not release.pods("scheduler").keys() & before.keys()
    assert release.kubectl("get", "secret", "bench", "-o", "jsonpath={.data}") == login
    printed = release.r("""
        plan(kubernetes, workers = 3)
        pods <- future_sapply(1:3, function(i) { Sys.sleep(1); Sys.info()[["nodename"]] }, future.chunk.size = 1)
        cat(readLines("~/results.txt"), nbrOfWorkers(), length(unique(pods)))
    """)
    assert printed.split() == ["kept", "3", "3"]
    assert len(release.pods("worker")) == 3


def test_session_and_its_maps_survive_an_upgrade_of_every_worker(release: Release, tmp_path: Path) -> None:
    release.upgrade(CHART)
    newer = shutil.copytree(CHART, tmp_path / "chart")
    described = yaml.safe_load((newer / "Chart.yaml").read_text())
    (newer / "Chart.yaml").write_text(yaml.safe_dump({**described, "version": "99.0.0"}))
    template = newer / "templates" / "worker-deployment.yaml"
    labels = '        {{- include "future-kubernetes.podLabels" (list $ "worker")'
    assert template.read_text().count(labels) == 1
    template.write_text(template.read_text().replace(labels, f'        tests/edited: "yes"\n{labels}'))
    scheduler, old = release.pods("scheduler"), set(release.pods("worker"))

    with maps(release) as used:
        # Until the pause ends, a pod that comes is one of the former kind, as the session's workers are.
        release.upgrade(newer, pause=True)
        release.r("scale_workers(4)")
        paused = set(release.pods("worker"))
        release.upgrade(newer, replicas=4)

    assert release.pods("scheduler") == scheduler, "the same pod, without a restart of its container"
    new = set(release.pods("worker"))
    assert paused > old
    assert len(paused) == 4
    assert len(new) == 4
    assert not new & paused
    assert used & old, "the upgrade came before the maps"
    assert used & new, "no map ran on a new worker"
