"""A real cluster of the tests' own: started as `make up` starts stack dev, removed at the end, whatever happened."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from local import cluster
from local.paths import REPO, state_dir

CLUSTER = "test"
WORKERS = 3


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "timeout: bound of one test, in seconds")


@dataclass(frozen=True)
class Stack:
    """Stack dev on the tests' cluster, or another instance of it with a state of its own."""

    node: cluster.Node
    state: Path
    config: dict[str, str] = field(default_factory=dict)
    project: Path = REPO

    def engine(self, *arguments: str, check: bool = True, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "local.engine", *arguments],
            cwd=self.project, env=self.environment(), capture_output=True, text=True, check=False, timeout=timeout,
        )  # fmt: skip
        if check:
            assert done.returncode == 0, done.stdout + done.stderr
        return done

    def up(self, check: bool = True, **config: str) -> subprocess.CompletedProcess[str]:
        pairs = [f"--config={key}={value}" for key, value in {**self.config, **config}.items()]
        return self.engine("up", *pairs, check=check)

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "FUTURE_KUBERNETES_STATE": str(self.state),
            "FUTURE_KUBERNETES_KUBECONFIG": str(self.node.kubeconfig),
            "FUTURE_KUBERNETES_BIN": str(self.node.programs),
            "PATH": f"{self.node.programs}{os.pathsep}{os.environ['PATH']}",
        }

    def outputs(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.engine("output", "--json", "--show-secrets").stdout)
        return found

    @property
    def namespace(self) -> str:
        return str(self.outputs()["namespace"])

    def kubectl(self, *arguments: str, **options: Any) -> str:
        return self.node.kubectl("-n", self.namespace, *arguments, **options).stdout

    def pods(self, component: str) -> list[dict[str, Any]]:
        """Pods that are not on their way out."""
        found = json.loads(self.kubectl("get", "pods", "-l", f"component={component}", "-o", "json"))["items"]
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def rscript(self, code: str, timeout: float = 120) -> str:
        """Standard output of an R program in the scheduler pod; a failure of R fails the test with its messages."""
        scheduler = self.pods("scheduler")[0]["metadata"]["name"]
        return self.kubectl("exec", "-i", scheduler, "--", "Rscript", "-", input=code, timeout=timeout)

    def wait(self, what: str, seconds: float, done: Any) -> Any:
        """The first true value of `done()`, looked for twice a second; fails after that many seconds."""
        deadline = time.monotonic() + seconds
        while not (value := done()):
            assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
            time.sleep(0.5)
        return value


@pytest.fixture(scope="session", autouse=True)
def own_state() -> Iterator[Path]:
    """A state folder beside the user's: nothing here sees or touches a running stack dev."""
    state = state_dir(CLUSTER).parent.with_name("future-kubernetes-tests")
    before = {name: os.environ.get(name) for name in ("FUTURE_KUBERNETES_STATE", "FUTURE_KUBERNETES_CLUSTER")}
    os.environ["FUTURE_KUBERNETES_STATE"], os.environ["FUTURE_KUBERNETES_CLUSTER"] = str(state), CLUSTER
    yield state
    for name, value in before.items():
        if value is None:
            os.environ.pop(name)
        else:
            os.environ[name] = value


@pytest.fixture(scope="session")
def made_up(own_state: Path) -> Iterator[tuple[cluster.Node, str]]:
    """The cluster after `make up`'s own command, and what that printed."""
    clear(own_state)
    done = subprocess.run(
        [sys.executable, "-m", "local", "up", f"--config=workers={WORKERS}"],
        cwd=REPO, capture_output=True, text=True, check=False, timeout=2400,
    )  # fmt: skip
    node = cluster.running(CLUSTER)
    try:
        assert done.returncode == 0, done.stdout + done.stderr
        assert node is not None
        yield node, done.stdout
    finally:
        clear(own_state)


def clear(state: Path) -> None:
    """What this run or an earlier, aborted one has left."""
    for name in (CLUSTER, "passing"):
        cluster.stop(name)
    subprocess.run(["rm", "-rf", str(state)], check=True)


@pytest.fixture(scope="session")
def stack(made_up: tuple[cluster.Node, str], own_state: Path) -> Stack:
    node, _ = made_up
    first = Stack(node, own_state)
    image = json.loads(first.kubectl("get", "deployments", "-o", "json"))["items"][0]
    reference = image["spec"]["template"]["spec"]["containers"][0]["image"]
    return Stack(node, own_state, {"image": reference, "workers": str(WORKERS)})
