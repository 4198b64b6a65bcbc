"""Pods as a user whom no image knows, in group 0: what OpenShift's SCC `restricted-v2` makes of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Stack

pytestmark = pytest.mark.timeout(600)

USER = 1000680000
CHOSEN = {"runAsUser": USER, "runAsGroup": 0, "fsGroup": USER}


@pytest.fixture(scope="module")
def chosen(stack: Stack, own_state: Path) -> Iterator[Stack]:
    """A stack of two workers whose pods name no user; a patch in place of OpenShift's admission sets one."""
    values = json.dumps({"anyUser": True})
    config = {**stack.config, "namespace": "any-user", "workers": "2", "workerMemoryGiB": "0.5", "chartValues": values}
    other = Stack(stack.node, own_state / "any-user", config)
    other.up()
    before = other.scheduler()["metadata"]["uid"]
    names = other.kubectl("get", "deployments", "-o", "name").split()
    patch = json.dumps({"spec": {"template": {"spec": {"securityContext": CHOSEN}}}})
    for name in names:
        other.kubectl("patch", name, "--type=strategic", "-p", patch)
    other.scheduler(other_than=before)
    other.kubectl("rollout", "status", other.workload, "--timeout=120s", timeout=150)
    yield other
    other.standin("down")


def test_chosen_user_is_named_and_runs_futures_on_workers_of_the_same_user(chosen: Stack) -> None:
    printed = chosen.rscript(
        """
        suppressMessages({library(future.kubernetes); library(future.apply)})
        plan(kubernetes, workers = 2)
        me <- function(i) paste(system("id -u; id -g; id -un", intern = TRUE), collapse = " ")
        cat("HERE", me(), "\\nTHERE", unique(future_sapply(1:4, me)), "\\n")
        writeLines("kept", "~/written-by-the-chosen-user")
        """
    )
    assert f"HERE {USER} 0 rstudio" in printed
    assert f"THERE {USER} 0 rstudio" in printed


def test_front_door_and_jupyterlab_answer_as_the_chosen_user(chosen: Stack) -> None:
    scheduler = chosen.scheduler()["metadata"]["name"]
    asked = "curl -s -o /dev/null -w '%{http_code}' http://localhost:8787/login || python3 -c " + (
        "'import urllib.request as u; print(u.urlopen(\"http://localhost:8787/login\").status)'"
    )
    assert "200" in chosen.kubectl("exec", scheduler, "--", "sh", "-c", asked)
