"""Pods as a user whom no image knows, in group 0: what OpenShift's SCC `restricted-v2` makes of them."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator

import pytest

from bench.release import install
from common.paths import REPO
from common.patience import patience
from local import cluster
from tests.e2e.conftest import SMALL_POD, Stack

pytestmark = pytest.mark.timeout(600)

USER = 1000680000
NAME = "any-user"


@pytest.fixture(scope="module")
def chosen(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[cluster.Node]:
    """A release whose pods name no user. A changed chart stands in for OpenShift's admission, which sets one."""
    chart = shutil.copytree(REPO / "chart", tmp_path_factory.mktemp("any-user") / "chart")
    helpers = chart / "templates" / "_helpers.tpl"
    text = helpers.read_text()
    assert text.count("\nrunAsNonRoot: true\n") == 1
    admitted = f"\nrunAsNonRoot: true\nrunAsUser: {USER}\nrunAsGroup: 0\nfsGroup: {USER}\n"
    helpers.write_text(text.replace("\nrunAsNonRoot: true\n", admitted))
    values = {
        "image": stack.config["image"],
        "anyUser": True,
        "scheduler": {"homeGiB": 0, "resources": SMALL_POD},
        "worker": {"replicas": 2, "resources": SMALL_POD},
    }
    try:
        install(stack.node, NAME, NAME, secrets.token_urlsafe(32), values, chart=chart)
        yield stack.node
    finally:
        stack.node.kubectl("delete", "namespace", NAME, "--ignore-not-found", f"--timeout={patience(120):.0f}s")


def in_scheduler(node: cluster.Node, *command: str, text: str = "") -> str:
    """The output of a command in the scheduler's pod."""
    where = ("-n", NAME, "exec", "-i", f"deploy/{NAME}-scheduler", "--")
    return str(node.kubectl(*where, *command, input=text, timeout=patience(240)).stdout)


def test_chosen_user_is_named_and_runs_futures(chosen: cluster.Node) -> None:
    code = """
    suppressMessages({library(future.kubernetes); library(future.apply)})
    plan(kubernetes, workers = 2)
    me <- function(i) paste(system("id -u; id -g; id -un", intern = TRUE), collapse = " ")
    there <- future_sapply(1:4, me)
    writeLines("kept", "~/written-by-the-chosen-user")
    cat(me(), unique(there), readLines("~/written-by-the-chosen-user"), sep = "; ")
    """
    assert in_scheduler(chosen, "Rscript", "-", text=code) == f"{USER} 0 rstudio; {USER} 0 rstudio; kept"


def test_login_page_answers_as_the_chosen_user(chosen: cluster.Node) -> None:
    request = f"urlopen('http://localhost:8787/login', timeout={patience(60)})"
    code = f"from urllib.request import urlopen; print({request}.status)"
    assert in_scheduler(chosen, "/opt/jupyter/bin/python", "-c", code).strip() == "200"
