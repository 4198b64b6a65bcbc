"""The image as the stack's pods run it, and what a stack adds to it."""

from __future__ import annotations

import json
import re

import pytest

from common.errors import UserError
from common.patience import VARIABLE, patience
from local import image
from tests.e2e.conftest import WORKERS, Stack

pytestmark = pytest.mark.timeout(600)

BAKED = ("foreach", "furrr", "future", "future.apply", "parallelly", "progressr")


@pytest.mark.parametrize("component", ["scheduler", "worker"])
def test_pods_run_without_root_and_cannot_write_to_the_image(stack: Stack, component: str) -> None:
    pod = stack.pods(component)[0]["metadata"]["name"]
    told = stack.kubectl(
        "exec", pod, "--", "sh", "-c", "id -u; grep CapEff /proc/self/status; touch /usr/x 2>&1 || true"
    )
    assert told.splitlines()[0] == "1000"
    assert "0000000000000000" in told
    assert "Read-only file system" in told


def test_packages_for_futures_are_on_scheduler_and_workers(stack: Stack) -> None:
    names = json.dumps(BAKED)[1:-1]
    code = f"""
    library(future); plan(cluster, manual = TRUE, quiet = TRUE)
    there <- function() vapply(c({names}), requireNamespace, NA, quietly = TRUE)
    cat("HERE", all(there()), "THERE", all(value(future(there()))))
    """
    assert "HERE TRUE THERE TRUE" in stack.rscript(code)


def test_worker_computes_on_a_thread_per_requested_core(stack: Stack) -> None:
    assert stack.kubectl("exec", stack.workload, "--", "printenv", "OMP_NUM_THREADS") == "1\n"


def test_interactive_r_is_told_of_workers_and_scripts_are_not(stack: Stack) -> None:
    pod = stack.scheduler()["metadata"]["name"]

    def said(environment: str, command: str) -> str:
        return stack.kubectl("exec", "-i", pod, "--", "sh", "-c", f"{environment} {command} 2>&1", input="q()\n")

    console = "R --interactive --no-save --no-echo"
    assert f"{WORKERS} workers are ready" in said("", console)
    assert "plan(kubernetes)" in said("", console)
    assert "ready" not in said("FUTURE_KUBERNETES_QUIET=1", console)
    assert said("", "Rscript -e 'cat(1)'") == "1"


@pytest.mark.parametrize(
    ("python", "folder"),
    [
        ("python3", "/usr/local/lib/future-kubernetes/future_kubernetes/*"),
        ("/opt/jupyter/bin/python", "/opt/jupyter/lib/python3*/site-packages/jupyter_server"),
    ],
)
def test_no_module_is_left_to_be_compiled_at_each_start(stack: Stack, python: str, folder: str) -> None:
    code = f"""
import glob, importlib.util, os
sources = glob.glob("{folder}/*.py")
missing = [path for path in sources if not os.path.exists(importlib.util.cache_from_source(path))]
print(len(sources), missing)
"""
    pod = stack.scheduler()["metadata"]["name"]
    number, missing = stack.kubectl("exec", "-i", pod, "--", python, "-", input=code).split(maxsplit=1)
    assert int(number) > 5
    assert missing.strip() == "[]"


def test_functions_of_the_workers_r_are_compiled_in_the_image(stack: Stack) -> None:
    # The R package tests the functions (testthat/test-values.R), and skips that where there is no file.
    file = "/usr/local/lib/future-kubernetes/future_kubernetes/worker/worker.rds"
    code = f'cat(identical(readRDS("{file}")$made_by, R.version.string))'
    pod = stack.pods("worker")[0]["metadata"]["name"]
    assert stack.kubectl("exec", pod, "--", "Rscript", "-e", code) == "TRUE"


@pytest.fixture(scope="module")
def larger(stack: Stack) -> str:
    """An image with a stack's own packages: those that R CMD check and lintr want, and one of Debian's."""
    r_packages = ("knitr", "lintr", "rmarkdown", "testthat", "withr")
    request = image.ImageRequest(r_packages=r_packages, apt_packages=("tree",))
    reference = image.push(stack.node, request)
    stack.node.run("ctr", "-n", "k8s.io", "images", "pull", "--plain-http", reference)
    return reference


def run_in(stack: Stack, reference: str, *command: str) -> str:
    """Standard output of a command in a container of its own."""
    setting = f"--env={VARIABLE}={patience(1):g}"
    run = ("ctr", "-n", "k8s.io", "run", "--rm", setting, reference, "test-image", *command)
    return stack.node.run(*run, timeout=patience(500)).stdout


def test_a_stacks_own_packages_are_baked_in(stack: Stack, larger: str) -> None:
    code = 'library(withr); cat("HAS", exists("with_seed"), nzchar(Sys.which("tree")))'
    assert "HAS TRUE TRUE" in run_in(stack, larger, "Rscript", "-e", code)


def test_the_r_package_passes_r_cmd_check(stack: Stack, larger: str) -> None:
    checked = run_in(
        stack, larger, "sh", "-c",
        "cd /tmp && R CMD build /usr/local/lib/future-kubernetes/build/future.kubernetes && "
        "R CMD check --no-manual future.kubernetes_*.tar.gz; cat *.Rcheck/00check.log *.Rcheck/tests/*.Rout*",
    )  # fmt: skip
    assert "Status: OK" in checked, checked
    assert "SKIPPED" not in checked
    assert re.search(r"FAIL 0 .* PASS [1-9]", checked), checked


def test_lintr_finds_nothing_in_the_r_package(stack: Stack, larger: str) -> None:
    folder = "/usr/local/lib/future-kubernetes/build/future.kubernetes"
    code = f'found <- lintr::lint_package("{folder}"); print(found); cat("LINTS", length(found))'
    found = run_in(stack, larger, "Rscript", "-e", code)
    assert found.endswith("LINTS 0"), found


@pytest.mark.parametrize(
    ("request_", "named"),
    [
        (image.ImageRequest(r_packages=("no.such.package",)), "no.such.package"),
        (image.ImageRequest(apt_packages=("no-such-library",)), "no-such-library"),
    ],
)
def test_package_that_cannot_be_installed_fails_the_build_by_name(
    stack: Stack, request_: image.ImageRequest, named: str
) -> None:
    with pytest.raises(UserError, match=named):
        image.build(request_)
