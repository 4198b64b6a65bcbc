"""A release with a volume at /shared: futures of a session that works there run in the very folder."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator

import pytest

from bench.release import install
from common.patience import patience
from local import cluster
from tests.e2e.conftest import Stack

pytestmark = pytest.mark.timeout(600)

NAME = "sharing"
FOLDER = "/var/lib/sharing"
VOLUME = {
    "apiVersion": "v1",
    "kind": "PersistentVolume",
    "metadata": {"name": NAME},
    "spec": {
        "storageClassName": NAME,
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteMany"],
        "hostPath": {"path": FOLDER},
    },
}
"""A folder of the one node stands in for a file server."""


@pytest.fixture(scope="module")
def sharing(stack: Stack) -> Iterator[cluster.Node]:
    size = {"requests": {"cpu": "50m", "memory": "256Mi"}, "limits": {"memory": "512Mi"}}
    values = {
        "image": stack.config["image"],
        "scheduler": {"homeGiB": 0, "resources": size},
        "worker": {"replicas": 2, "maxReplicas": 2, "resources": size},
        "shared": {"GiB": 1, "storageClass": NAME},
    }
    node = stack.node
    node.run("mkdir", "--mode=777", FOLDER)
    try:
        node.kubectl("apply", "-f", "-", input=json.dumps(VOLUME))
        install(node, NAME, NAME, secrets.token_urlsafe(32), values)
        yield node
    finally:
        node.kubectl("delete", "namespace", NAME, "--ignore-not-found", f"--timeout={patience(120):.0f}s")
        node.kubectl("delete", "pv", NAME, "--ignore-not-found", f"--timeout={patience(60):.0f}s")
        node.run("rm", "-rf", FOLDER)


def test_futures_of_a_session_in_shared_run_in_its_folder(sharing: cluster.Node) -> None:
    code = """
        suppressMessages(library(future.kubernetes))
        said <- character()
        take <- function(m) said <<- c(said, conditionMessage(m))
        unlink("/shared/project", recursive = TRUE)
        dir.create("/shared/project/data", recursive = TRUE)
        setwd("/shared/project")
        writeLines("of the session", "data/a.txt")
        writeLines("hidden", ".hidden")
        plan(kubernetes, workers = 2)
        there <- value(future(list(getwd(), readLines("data/a.txt"), readLines(".hidden"), Sys.info()[["nodename"]])))
        stopifnot(identical(there[1:3], list("/shared/project", "of the session", "hidden")))
        stopifnot(there[[4]] != Sys.info()[["nodename"]])
        withCallingHandlers(
          value(future({ writeLines("of a future", "data/b.txt"); unlink("data/a.txt") })), message = take
        )
        stopifnot(identical(dir("data"), "b.txt"), readLines("data/b.txt") == "of a future", length(said) == 0L)
        both <- value(lapply(1:2, function(i) future({
          file.create(sprintf("here-%d", i))
          while (!file.exists(sprintf("here-%d", 3 - i))) Sys.sleep(0.05) # the other worker's
          Sys.info()[["nodename"]]
        })))
        stopifnot(both[[1]] != both[[2]])
        stream <- future.kubernetes:::stream_of(list(backend = plan("backend")))
        stopifnot(stream$object_bytes == 0, is.null(stream$files)) # nothing travelled
        dir.create("~/project")
        setwd("~/project")
        writeLines("a copy", "a.txt")
        copied <- value(future({ writeLines("x", "/shared/c.txt"); c(getwd(), readLines("a.txt")) }))
        stopifnot(identical(copied, c(getwd(), "a copy")), readLines("/shared/c.txt") == "x")
        stopifnot(stream$object_bytes > 0, length(stream$files$bundles) == 1L)
        plan(sequential)
        cat("GOOD")
    """
    where = ("-n", NAME, "exec", "-i", f"deploy/{NAME}-scheduler", "--", "Rscript", "-")
    assert sharing.kubectl(*where, input=code, timeout=patience(240)).stdout.endswith("GOOD")
