"""A real cluster of the tests' own: started as `make up` starts stack dev, removed at the end, whatever happened."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from common.paths import REPO, state_dir
from common.patience import patience
from image.broker.diagnosis import is_ready
from local import cluster, image

CLUSTER = "test"
FAULTY_CLUSTER = "faults"
OTHER_CLUSTERS = ("passing", FAULTY_CLUSTER)
WORKERS = 3
SMALL_POD = {"requests": {"cpu": "50m", "memory": "256Mi"}, "limits": {"memory": "512Mi"}}
"""Resources of a pod for which the node has room beside the stacks."""
APART = {
    "test_r_workers": "scaling",
    "test_shared": "scaling",
    "test_simulated": "scaling",
    "test_upgrade": "scaling",
    "test_any_user": "scaling",
    "test_r_faults": "faults",
    "test_r_losses": "faults",
    "test_node": "faults",
    "test_warm": "faults",
    "test_culling": "second stack",
    "test_laptop": "second stack",
    "test_r_frontends": "second stack",
    "test_r_packages": "second stack",
    "test_r_world": "second stack",
}
"""Modules that leave the cluster's first stack as it is, and the group in which each runs beside the others."""


def group(path: Path) -> str:
    """Group of a test module."""
    return APART.get(path.stem, "first stack")


class Groups(LoadScopeScheduling):  # type: ignore[misc]
    """A process for what uses the first stack, one test after another, and one for each group of the rest."""

    def _split_scope(self, nodeid: str) -> str:
        return group(Path(nodeid.split("::")[0]))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Groups:
    return Groups(config, log)


@dataclass(frozen=True)
class Stack:
    """Stack dev on the tests' cluster, or another instance of it with a state of its own."""

    node: cluster.Node
    state: Path
    config: dict[str, str] = field(default_factory=dict)
    project: Path = REPO

    def standin(self, *arguments: str, check: bool = True, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "local", "standin", *arguments],
            cwd=self.project, env=self.environment(), capture_output=True, text=True, check=False,
            timeout=patience(timeout),
        )  # fmt: skip
        if check:
            assert done.returncode == 0, done.stdout + done.stderr
        return done

    def up(self, check: bool = True, **config: str) -> subprocess.CompletedProcess[str]:
        pairs = [f"--config={key}={value}" for key, value in {**self.config, **config}.items()]
        done = self.standin("up", *pairs, check=check)
        if done.returncode == 0:  # which is once the scheduler is ready
            self.wait("the workers", 120, self._workers_are_ready)
        return done

    def _workers_are_ready(self) -> bool:
        found = json.loads(self.kubectl("get", self.workload, "-o", "json"))
        status = found["status"]
        known = status.get("observedGeneration") == found["metadata"]["generation"]
        return bool(known and status.get("readyReplicas", 0) == status.get("replicas", 0) == found["spec"]["replicas"])

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "FUTURE_KUBERNETES_STATE": str(self.state),
            "FUTURE_KUBERNETES_KUBECONFIG": str(self.node.kubeconfig),
            "FUTURE_KUBERNETES_BIN": str(self.node.programs),
            "PATH": f"{self.node.programs}{os.pathsep}{os.environ['PATH']}",
        }

    def outputs(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.standin("outputs").stdout)
        return found

    @cached_property
    def namespace(self) -> str:
        """Asked for once: each kubectl of a wait would else start the program."""
        return str(self.outputs()["namespace"])

    def kubectl(self, *arguments: str, **options: Any) -> str:
        return self.node.kubectl("-n", self.namespace, *arguments, **options).stdout

    def pods(self, component: str, *, leaving: bool = False) -> list[dict[str, Any]]:
        """Pods that are not on their way out. leaving: those that are, too."""
        found = json.loads(self.kubectl("get", "pods", "-l", f"component={component}", "-o", "json"))["items"]
        return [pod for pod in found if leaving or "deletionTimestamp" not in pod["metadata"]]

    def scheduler(self, *, other_than: str = "") -> dict[str, Any]:
        """The one scheduler pod once it is ready. other_than: the uid of a pod that is on its way out."""

        def ready() -> dict[str, Any] | None:
            found = [pod for pod in self.pods("scheduler") if pod["metadata"]["uid"] != other_than]
            return found[0] if len(found) == 1 and is_ready(found[0]) else None

        pod: dict[str, Any] = self.wait("a ready scheduler pod", 120, ready)
        return pod

    def replace_scheduler(self) -> None:
        """End the scheduler's pod, and wait for another one."""
        before = self.scheduler()["metadata"]
        self.kubectl("delete", "pod", before["name"], "--wait=false")
        self.scheduler(other_than=before["uid"])

    def in_pod(self, command: str, **options: str) -> str:
        """Standard output of a shell's command in the scheduler pod's home folder."""
        pod = self.scheduler()["metadata"]["name"]
        return self.kubectl("exec", "-i", pod, "--", "sh", "-c", f"cd && {command}", **options)

    @property
    def workload(self) -> str:
        """The workers' Deployment, as kubectl names it."""
        names = self.kubectl("get", "deployments", "-o", "name").split()
        return next(name for name in names if name.endswith("-worker"))

    def replicas(self) -> int:
        """Number of workers that is asked for."""
        return int(self.kubectl("get", self.workload, "-o", "jsonpath={.spec.replicas}"))

    def rscript(self, code: str, timeout: float = 120) -> str:
        """Standard output of an R program in the scheduler pod; a failure of R fails the test with its messages."""
        scheduler = self.scheduler()["metadata"]["name"]
        return self.kubectl("exec", "-i", scheduler, "--", "Rscript", "-", input=code, timeout=patience(timeout))

    def wait(self, what: str, seconds: float, done: Any) -> Any:
        """The first true value of `done()`, looked for twice a second; fails after that many seconds."""
        deadline = time.monotonic() + patience(seconds)
        while not (value := done()):
            assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
            time.sleep(0.5)
        return value

    @contextmanager
    def limited_to(self, pods: int, name: str = "hold") -> Iterator[Callable[[], int]]:
        """A quota of so many pods during the block, once it is in force; gives the number of pods that it counts."""

        def used() -> str:
            return self.kubectl("get", "quota", name, "-o", "jsonpath={.status.used.pods}")

        self.kubectl("create", "quota", name, f"--hard=pods={pods}")
        try:
            self.wait("the quota to be counted: it holds from then on", 60, used)
            yield lambda: int(used())
        finally:
            self.kubectl("delete", "quota", name)


@contextmanager
def another(beside: Stack, state: Path, **config: str) -> Iterator[Stack]:
    """Another stack on the same cluster, in the namespace that its state's folder names. It is removed at the end."""
    other = Stack(beside.node, state, {**beside.config, "namespace": state.name, **config})
    try:
        yield other
    finally:
        other.standin("down")


@pytest.fixture(scope="session", autouse=True)
def own_state(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A state folder beside the user's: nothing here sees or touches a running stack dev.

    The first process of a run clears what an earlier, aborted one has left, and the last one what this one has.
    """
    state = state_dir(CLUSTER).parent.with_name("future-kubernetes-tests")
    before = {name: os.environ.get(name) for name in ("FUTURE_KUBERNETES_STATE", "FUTURE_KUBERNETES_CLUSTER")}
    os.environ["FUTURE_KUBERNETES_STATE"], os.environ["FUTURE_KUBERNETES_CLUSTER"] = str(state), CLUSTER
    run = getattr(request.config, "workerinput", {}).get("testrunuid", str(os.getpid()))
    with users(state) as known:
        if known.get("run") != run:
            clear(state)
            known.clear()
            known |= {"run": run, "users": 0}
        known["users"] += 1
    yield state
    with users(state) as known:
        known["users"] -= 1
        if not known["users"]:
            clear(state)
            known.clear()
    for name, value in before.items():
        if value is None:
            os.environ.pop(name)
        else:
            os.environ[name] = value


@pytest.fixture(scope="session")
def made_up(own_state: Path) -> tuple[cluster.Node, str]:
    """The cluster after `make up`'s own command, and what that printed; the processes of one run share it."""
    with users(own_state) as known:
        if "printed" not in known:
            done = subprocess.run(
                [sys.executable, "-m", "cli", "up", f"--config=workers={WORKERS}"],
                cwd=REPO, capture_output=True, text=True, check=False, timeout=patience(2400),
            )  # fmt: skip
            known |= {"failed": done.returncode != 0, "printed": done.stdout + done.stderr}
    assert not known["failed"], known["printed"]
    node = cluster.running(CLUSTER)
    assert node is not None
    return node, known["printed"]


@contextmanager
def users(state: Path) -> Iterator[dict[str, Any]]:
    """Record of this run's cluster for its processes, and how many of them use it; one of them at a time."""
    state.parent.mkdir(parents=True, exist_ok=True)
    with state.with_name(f"{state.name}.users").open("a+") as ledger:
        fcntl.flock(ledger, fcntl.LOCK_EX)
        ledger.seek(0)
        known: dict[str, Any] = json.loads(ledger.read() or "{}")
        yield known
        ledger.truncate(0)
        json.dump(known, ledger)


def clear(state: Path) -> None:
    """Clusters that this run or an earlier, aborted one has left."""
    for name in (CLUSTER, *OTHER_CLUSTERS):
        cluster.stop(name)
    subprocess.run(["rm", "-rf", str(state)], check=True)


@pytest.fixture(scope="session")
def first_stack(made_up: tuple[cluster.Node, str], own_state: Path) -> Stack:
    """Stack that `make up` has started, and that another `up` leaves as it is."""
    node, _ = made_up
    first = Stack(node, own_state)
    deployment = json.loads(first.kubectl("get", "deployments", "-o", "json"))["items"][0]
    reference = deployment["spec"]["template"]["spec"]["containers"][0]["image"]
    return Stack(node, own_state, {"image": reference, "workers": str(WORKERS)})


@pytest.fixture(scope="session")
def second_stack(first_stack: Stack, own_state: Path) -> Stack:
    """Another on the same cluster, so that half of the modules need not wait for the other half.

    It requests little of the node's processors, where the other groups' releases find room too. The commands of runs
    know the cluster by the first stack's state: `test_runs` is of that group.
    """
    config = {**first_stack.config, "namespace": "beside", "schedulerCpu": "0.1"}
    other = Stack(first_stack.node, own_state / "beside", config)
    other.up()
    return other


@pytest.fixture(scope="module")
def stack(request: pytest.FixtureRequest) -> Stack:
    """The stack of the module's group. No two processes use one of them at a time."""
    found: Stack = request.getfixturevalue("second_stack" if group(request.path) == "second stack" else "first_stack")
    if found.replicas() != WORKERS:  # a plan that was idle, or of a laptop, has given some back
        found.rscript(f"future.kubernetes::scale_workers({WORKERS})")
        found.wait("every worker to be back", 120, found._workers_are_ready)
    return found


@pytest.fixture(scope="session")
def faulty(own_state: Path) -> Iterator[Stack]:
    """A stack of three workers that may become six, on a cluster of its own: some faults are those of the node.

    Modules that use the stack are of one group in `APART`: a second process would stop the cluster of the first.
    """
    cluster.stop(FAULTY_CLUSTER)
    node = cluster.start(FAULTY_CLUSTER)
    reference = image.push(node, image.ImageRequest())
    config = {"image": reference, "namespace": "faulty", "workers": "3", "maxWorkers": "6", "workerMemoryGiB": "0.5"}
    other = Stack(node, own_state / "faulty", config)
    other.up()
    yield other
    cluster.stop(FAULTY_CLUSTER)
