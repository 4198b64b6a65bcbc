"""Stack dev on a real cluster: up, the article's computation, changes, a second stack, refusals, down."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.errors import UserError
from common.paths import REPO
from common.patience import patience
from local import cluster, smoke_test
from local.standin.apply import state_path
from tests.e2e.conftest import WORKERS, Stack, another

pytestmark = pytest.mark.timeout(600)

UNCHANGED = re.compile(r"0 created, 0 updated, 0 deleted, [1-9]\d* unchanged")


@pytest.fixture
def second(stack: Stack, own_state: Path) -> Iterator[Stack]:
    """Another stack on the same cluster, with a namespace of its own."""
    with another(stack, own_state / "second", workers="2") as other:
        yield other


def test_up_ends_with_the_articles_computation_on_distinct_pods(made_up: tuple[cluster.Node, str]) -> None:
    _, printed = made_up
    assert f"Parallel R works: {WORKERS} workers, each in a pod of its own" in printed
    assert len(set(re.findall(r"^    (\S+-worker-\S+)$", printed, re.MULTILINE))) == WORKERS


def test_the_outputs_are_those_that_users_rely_on(stack: Stack) -> None:
    names = {
        "url", "portForward", "username", "password", "kubeconfig", "kubeconfigCommand", "namespace", "workers",
        "maxWorkers", "nodes", "hourlyCost", "copyTo", "copyFrom", "shell",
    }  # fmt: skip
    assert names <= set(stack.outputs())


def test_up_again_changes_nothing(stack: Stack) -> None:
    before = [pod["metadata"]["uid"] for pod in [stack.scheduler(), *stack.pods("worker")]]
    assert UNCHANGED.search(stack.up().stdout)
    assert [pod["metadata"]["uid"] for pod in [stack.scheduler(), *stack.pods("worker")]] == before


def test_another_worker_count_is_deployed_and_the_scheduler_stays(stack: Stack) -> None:
    before = stack.scheduler()["metadata"]["uid"]
    stack.up(workers=str(WORKERS + 2))
    assert len(stack.pods("worker")) == WORKERS + 2
    # The article's line, in a new R session, without a number of workers.
    live = 'plan <- future::plan; plan(future::cluster, manual = TRUE, quiet = TRUE); cat("N", future::nbrOfWorkers())'
    assert f"N {WORKERS + 2}" in stack.wait(
        "the new workers", 30, lambda: _if_in(f"N {WORKERS + 2}", stack.rscript(live))
    )
    stack.up()
    assert stack.scheduler()["metadata"]["uid"] == before
    stack.wait("the surplus workers to go", 60, lambda: len(stack.pods("worker")) == WORKERS)


def _if_in(wanted: str, text: str) -> str:
    return text if wanted in text else ""


def test_a_changed_chart_template_is_deployed(stack: Stack, tmp_path: Path) -> None:
    copied = tmp_path / "project"
    shutil.copytree(REPO, copied, ignore=shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", "tests"))
    template = copied / "chart/templates/worker-deployment.yaml"
    text = template.read_text()
    assert text.count("\n  annotations:\n") == 1
    template.write_text(text.replace("\n  annotations:\n", '\n  annotations:\n    tests/edited: "yes"\n'))
    edited = Stack(stack.node, stack.state, stack.config, copied)
    assert "1 updated" in edited.up().stdout
    assert "tests/edited" in stack.kubectl(
        "get", "deployments", "-l", "app.kubernetes.io/component=worker", "-o", "yaml"
    )
    assert "1 updated" in stack.up().stdout
    assert "tests/edited" not in stack.kubectl("get", "deployments", "-o", "yaml")


def test_two_stacks_live_side_by_side(stack: Stack, second: Stack) -> None:
    second.up()
    assert smoke_test.run(second.node, second.outputs(), 1000)["pods"]
    assert smoke_test.run(stack.node, stack.outputs(), 1000)["pods"]
    assert second.outputs()["password"] != stack.outputs()["password"]


def test_the_password_is_in_no_object_but_its_secret(stack: Stack) -> None:
    password = stack.outputs()["password"]
    everything = stack.kubectl("get", "all,configmaps,events,ingresses,networkpolicies", "-o", "yaml")
    helm = [str(stack.node.programs / "helm"), "--kubeconfig", str(stack.node.kubeconfig), "-n", stack.namespace]
    release = json.loads(subprocess.run([*helm, "list", "-o", "json"], capture_output=True, check=True).stdout)[0][
        "name"
    ]
    for part in ("values", "manifest", "notes"):
        everything += subprocess.run([*helm, "get", part, release], capture_output=True, text=True, check=True).stdout
    for pod in [stack.scheduler(), *stack.pods("worker")]:
        everything += stack.kubectl("logs", pod["metadata"]["name"])
    assert password not in everything
    assert password not in stack.up().stdout


def test_workers_have_no_api_token_and_scheduler_only_scales_them(stack: Stack) -> None:
    worker = stack.pods("worker")[0]["metadata"]["name"]
    listing = stack.kubectl("exec", worker, "--", "sh", "-c", "ls /var/run/secrets/kubernetes.io 2>&1 || true")
    assert "No such file" in listing
    account = stack.scheduler()["spec"]["serviceAccountName"]
    workers = stack.pods("worker")[0]["metadata"]["labels"]["app.kubernetes.io/instance"] + "-worker"

    def can(*what: str) -> bool:
        argv = ["auth", "can-i", *what, f"--as=system:serviceaccount:{stack.namespace}:{account}"]
        kubectl = [str(stack.node.programs / "kubectl"), f"--kubeconfig={stack.node.kubeconfig}", "-n", stack.namespace]
        return subprocess.run([*kubectl, *argv], capture_output=True, check=False).returncode == 0

    assert can("list", "pods")
    assert can("patch", f"deployments.apps/{workers}", "--subresource=scale")
    for refused in (
        ("patch", "deployments.apps/another", "--subresource=scale"),
        ("patch", f"deployments.apps/{workers}"),
        ("delete", "pods"),
        ("create", "pods/exec"),
        ("get", "secrets"),
        ("list", "pods", "--namespace=kube-system"),
        ("list", "nodes"),
    ):
        assert not can(*refused), refused


def test_missing_image_is_named_early_and_next_run_fixes_it(stack: Stack) -> None:
    missing = f"127.0.0.1:5000/no-such-image@sha256:{'0' * 64}"
    started = time.monotonic()
    failed = stack.up(check=False, image=missing)
    took = time.monotonic() - started
    assert failed.returncode == 1
    assert "no-such-image" in failed.stderr
    assert "not found" in failed.stderr
    assert re.search(r"^error: pod \S+: \w*ImagePull", failed.stderr, re.MULTILINE), "the watch, and not Helm late"
    assert took < patience(180), f"{took:.0f} s"  # ten minutes without the watch on events; a noisy machine takes some
    stack.up()
    assert smoke_test.run(stack.node, stack.outputs(), 1000)["pods"]


def test_an_interrupted_up_is_finished_by_the_next(stack: Stack) -> None:
    # Helm waits only for the scheduler, so a setting that restarts it is changed too.
    more = WORKERS + 2
    changed = {**stack.config, "workers": str(more), "schedulerMemoryGiB": "3"}
    pairs = [f"--config={key}={value}" for key, value in changed.items()]
    argv = [str(REPO / ".venv/bin/python"), "-m", "local", "standin", "up", *pairs]
    # A quota holds the new scheduler back, so that the signal comes while Helm waits, however slow this test is.
    with stack.limited_to(1):
        running = subprocess.Popen(argv, cwd=REPO, env=stack.environment(), stdout=subprocess.DEVNULL)
        stack.wait("the rollout", 60, lambda: running.poll() is not None or stack.replicas() == more)
        running.send_signal(signal.SIGINT)
        assert running.wait(patience(60)) == 130
    assert stack.replicas() == WORKERS
    stack.up()
    assert len(stack.wait("the workers", 60, lambda: _exactly(WORKERS, stack.pods("worker")))) == WORKERS


def _exactly(count: int, pods: list[dict[str, object]]) -> list[dict[str, object]]:
    return pods if len(pods) == count else []


def test_wrong_settings_are_all_named_before_anything_is_made(stack: Stack) -> None:
    before = state_path().read_text()
    failed = stack.up(check=False, workers="four", homeGiB="-1", wokers="3")
    assert failed.returncode == 1
    assert all(word in failed.stderr for word in ("workers", "'four'", "homeGiB", "wokers", "pulumi config set"))
    assert state_path().read_text() == before


def test_more_workers_than_the_machine_holds_are_refused_before_creation(stack: Stack) -> None:
    before = state_path().read_text()
    failed = stack.up(check=False, workers="2000")
    assert failed.returncode == 1
    assert "too small for 2000 workers" in failed.stderr
    assert "pulumi config set maxWorkers" in failed.stderr
    assert state_path().read_text() == before


def test_files_in_the_home_folder_outlive_the_scheduler_pod(stack: Stack) -> None:
    before = stack.scheduler()["metadata"]
    stack.kubectl("exec", before["name"], "--", "sh", "-c", "echo kept > /home/rstudio/file")
    stack.kubectl("delete", "pod", before["name"])
    again = stack.scheduler(other_than=before["uid"])["metadata"]["name"]
    assert stack.kubectl("exec", again, "--", "cat", "/home/rstudio/file") == "kept\n"
    # The workers find the new broker by themselves.
    stack.wait("the workers' return", 60, lambda: f"N {WORKERS}" in stack.rscript(
        'library(future); plan(cluster, manual = TRUE, quiet = TRUE); cat("N", nbrOfWorkers())'))  # fmt: skip


def test_metrics_of_pods_can_be_asked_for(stack: Stack) -> None:
    scheduler = stack.scheduler()["metadata"]["name"]
    stack.wait("metrics", 60, lambda: scheduler in _top(stack))


def _top(stack: Stack) -> str:
    try:
        return stack.kubectl("top", "pods")
    except UserError:
        return ""
