"""R on another machine: the root of the image's base, outside of any pod, that reaches the release only by kubectl."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from bench.r_package import WRITE_PACKAGE
from image.common.process import alive
from tests.e2e.conftest import Stack
from tests.e2e.laptops import FUTURES, OTHER_R, PACKAGES, WITH_PACKAGES, Laptop, made, own_release

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def laptop(stack: Stack) -> Iterator[Laptop]:
    with made(stack, WITH_PACKAGES) as one:
        yield one


@pytest.fixture(scope="module")
def with_another_r(stack: Stack) -> Iterator[Laptop]:
    with made(stack, OTHER_R, FUTURES) as one:
        yield one


def test_laptops_futures_find_its_files_variables_objects_and_packages(laptop: Laptop, stack: Stack) -> None:
    printed = laptop.r(
        WRITE_PACKAGE
        + """
        writeLines("of the laptop", "data.txt")
        install_package("mypkg", "f <- function() 'from a package'")
        plan(kubernetes, workers = 2, cluster = there)
        stopifnot(nrow(workers()) >= 2L)
        pod <- value(future(Sys.info()[["nodename"]]))
        stopifnot(pod %in% workers()$pod, pod != Sys.info()[["nodename"]])
        Sys.setenv(API_KEY = "k")
        stopifnot(identical(value(future(Sys.getenv("API_KEY"))), "k"))
        stopifnot(identical(value(future(readLines("data.txt"))), "of the laptop"))
        stopifnot(identical(value(future(mypkg::f())), "from a package"))
        x <- as.numeric(1:3e6) # by a file in the pod, in pieces from here
        stopifnot(identical(value(future(sum(x))), sum(x)), identical(value(future(x + 1)), x + 1))
        cat("FORWARD", forward(), "\\n")
        """
    )
    forward = printed.split("FORWARD ")[1].split()[0]
    stack.wait("the forward to end with its session", 20, lambda: not alive(int(forward)))


def test_r6_objects_and_callr_work_as_packages_of_the_laptop(laptop: Laptop) -> None:
    lacking = "c({})".format(", ".join(f'"{package}"' for package in PACKAGES))
    laptop.r(
        WRITE_PACKAGE
        + f"""
        plan(kubernetes, workers = 1, cluster = there)
        worker <- value(future(list(pid = Sys.getpid(), has = basename(list.dirs(.libPaths(), recursive = FALSE)))))
        stopifnot("future" %in% worker$has, !{lacking} %in% worker$has)
        Stack <- R6::R6Class("Stack", public = list(
          items = NULL,
          add = function(x) {{
            self$items <- c(self$items, x)
            invisible(self)
          }}
        ))
        Counted <- R6::R6Class("Counted", inherit = Stack, public = list(
          add = function(x) {{
            private$n <- private$n + 1L
            super$add(x)
          }}
        ), private = list(n = 0L), active = list(count = function() private$n))
        # The generator needs R6 there. It names its parent as an expression, in which future looks for no globals.
        with_parent <- structure(TRUE, add = "Stack")
        stopifnot(value(future(Counted$new()$add(1)$add(2)$count, globals = with_parent)) == 2L)
        here <- Counted$new()$add("here")
        there_too <- value(future(here$clone()$add("there")))
        stopifnot(identical(there_too$items, c("here", "there")), there_too$count == 2L, here$count == 1L)
        stopifnot(R6::is.R6(there_too), there_too$add("again")$count == 3L)
        install_package("mypkg", "f <- function() 'of the session'")
        child <- value(future({{
          loadNamespace("mypkg")
          callr::r(function() list(pid = Sys.getpid(), said = mypkg::f(), wd = basename(getwd())))
        }}))
        stopifnot(child$pid != worker$pid, child$said == "of the session", child$wd == basename(folder))
        stopifnot(identical(value(future(callr::r(function(x) x + 1, list(1)))), 2))
        e <- tryCatch(value(future(callr::r(function() stop("in the child")))), error = identity)
        stopifnot(inherits(e, "callr_error"), grepl("in the child", conditionMessage(e$parent)))
        remove.packages("mypkg")
        """
    )


def test_forward_that_ends_is_remade_and_future_in_flight_comes(laptop: Laptop, tmp_path: Path) -> None:
    laptop.r(
        """
        plan(kubernetes, workers = 1, cluster = there)
        first <- forward()
        f <- future({ Sys.sleep(3); Sys.getpid() })
        for (i in 1:600) if (any(workers()$state == "busy")) break else Sys.sleep(0.05)
        tools::pskill(first, 9)
        pid <- value(f)
        stopifnot(forward() != first, identical(value(future(Sys.getpid())), pid)) # the same R, so it ran once
        """
    )


def test_laptop_that_was_asleep_gets_results_when_it_wakes(laptop: Laptop) -> None:
    # R and its forward stop for longer than the half minute after which a plan without work gives its workers back.
    laptop.r(
        """
        plan(kubernetes, workers = 1, cluster = there)
        f <- future({ Sys.sleep(3); "computed while asleep" })
        for (i in 1:600) if (any(workers()$state == "busy")) break else Sys.sleep(0.05)
        both <- paste(Sys.getpid(), forward())
        system(sprintf("(kill -STOP %s; sleep 40; kill -9 %d; kill -CONT %s) >/dev/null 2>&1 &", both, forward(), both))
        Sys.sleep(2)
        stopifnot(identical(value(f), "computed while asleep"), value(future(1)) == 1)
        """
    )


def test_destroyed_release_ends_its_futures_and_another_works(laptop: Laptop, stack: Stack) -> None:
    with own_release(stack, "gone", max_workers=1) as namespace:
        laptop.r(
            f"""
            gone <- list(release = "gone", namespace = "{namespace}", kubeconfig = "/root/kubeconfig")
            plan(kubernetes, workers = 1, cluster = gone)
            f <- future(Sys.sleep(600))
            for (i in 1:600) if (any(workers()$state == "busy")) break else Sys.sleep(0.05)
            system("kubectl --kubeconfig=/root/kubeconfig delete namespace {namespace} >&2")
            began <- proc.time()[["elapsed"]]
            e <- tryCatch(value(f), error = identity)
            stopifnot(inherits(e, "KubernetesUnavailableError"), grepl("not found", conditionMessage(e)))
            stopifnot(proc.time()[["elapsed"]] - began < 90)
            plan(kubernetes, workers = 1, cluster = there)
            stopifnot(value(future(1)) == 1)
            """
        )


def test_stacks_name_leads_by_its_output_to_the_release(laptop: Laptop, stack: Stack) -> None:
    # A stand-in for pulumi, which prints the stack's own output. kubectl and kubeconfig are where this laptop has them.
    forward = stack.outputs()["portForward"].replace(str(stack.node.kubeconfig), "/root/kubeconfig")
    command = f"kubectl --kubeconfig{forward.split('--kubeconfig', 1)[1]}"
    pulumi = laptop.root / "usr/local/bin/pulumi"
    pulumi.write_text(f"""#!/bin/sh
        [ "$*" = "stack output portForward --stack far-team --non-interactive" ] || {{ echo "error: $*" >&2; exit 1; }}
        echo {shlex.quote(command)}
    """)
    pulumi.chmod(0o755)
    try:
        laptop.r(
            """
            plan(kubernetes, workers = 2, cluster = "far-team")
            pods <- unlist(value(lapply(1:2, function(i) future({ Sys.sleep(1); Sys.info()[["nodename"]] }))))
            stopifnot(length(unique(pods)) == 2L, pods %in% workers()$pod)
            e <- tryCatch(plan(kubernetes, workers = 1, cluster = "no-team"), error = identity)
            stopifnot(inherits(e, "KubernetesClusterError"), grepl("pulumi stack ls", conditionMessage(e)))
            """
        )
    finally:
        pulumi.unlink()


def test_laptops_plan_grows_and_a_lost_workers_future_runs_again(laptop: Laptop, stack: Stack) -> None:
    with own_release(stack, "grown", max_workers=2) as namespace:
        laptop.r(
            f"""
            grown <- list(release = "grown", namespace = "{namespace}", kubeconfig = "/root/kubeconfig")
            plan(kubernetes, workers = c(1, 2), cluster = grown)
            where <- function(i) future({{ Sys.sleep(3); Sys.info()[["nodename"]] }})
            for (i in 1:20) if (length(used <- unique(unlist(value(lapply(1:6, where))))) == 2L) break
            stopifnot(length(used) == 2L, nrow(workers()) == 2L)
            draw <- function(until) future({{
              while (Sys.time() < until) Sys.sleep(0.1)
              list(Sys.info()[["nodename"]], rnorm(1))
            }}, seed = 1L)
            same <- value(draw(Sys.time()))
            f <- draw(Sys.time() + 40)  # kubelet ends a deleted pod within that time, also on a busy machine
            for (i in 1:600) if (any(workers()$state == "busy")) break else Sys.sleep(0.05)
            lost <- workers()$pod[workers()$state == "busy"]
            system(paste("kubectl --kubeconfig=/root/kubeconfig --namespace={namespace}",
              "delete pod --grace-period=0 --force --wait=false", lost, ">&2"))
            said <- character()
            again <- withCallingHandlers(value(f), message = function(m) said <<- c(said, conditionMessage(m)))
            stopifnot(identical(again[[2]], same[[2]]), again[[1]] != lost)
            words <- "was lost .its pod was (draining|deleted|ended).*run again"
            stopifnot(length(grep(paste("Worker", lost, words), said)) == 1L)
            e <- tryCatch(plan(kubernetes, workers = 3, cluster = grown), error = identity)
            stopifnot(inherits(e, "KubernetesError"), grepl("maxWorkers", conditionMessage(e)))
            """
        )


def test_forked_child_of_laptop_neither_takes_nor_makes_futures(laptop: Laptop) -> None:
    laptop.r(
        """
        plan(kubernetes, workers = 1, cluster = there)
        f <- future(3)
        refused <- parallel::mclapply(list(function() value(f), function() value(future(1))), function(code) {
          tryCatch(code(), error = class)
        }, mc.cores = 2)
        for (one in refused) stopifnot("FutureError" %in% one)
        stopifnot(value(f) == 3, value(future(Sys.getpid())) > 0)
        """
    )


def test_a_pod_that_is_replaced_gets_the_futures_again(laptop: Laptop, stack: Stack) -> None:
    before = stack.scheduler()["metadata"]["uid"]
    laptop.r(
        """
        plan(kubernetes, workers = 1, cluster = there)
        f <- future({ Sys.sleep(1); 42 })
        kubectl <- sub(" port-forward.*", "", future.kubernetes:::target$command)
        pod <- system(paste(kubectl, "get pods -l component=scheduler -o name"), intern = TRUE)
        system(paste(kubectl, "delete --wait=false", pod))
        gone <- function() !length(system(paste(kubectl, "get --ignore-not-found -o name", pod), intern = TRUE))
        for (i in 1:600) if (gone()) break else Sys.sleep(0.2)
        stopifnot(value(f) == 42, value(future(1)) == 1)
        """
    )
    assert stack.scheduler(other_than=before)


def test_expired_login_is_named_and_renewal_brings_the_futures(laptop: Laptop, stack: Stack) -> None:
    config = yaml.safe_load(stack.node.kubeconfig.read_text())
    config["users"] = [{"name": config["users"][0]["name"], "user": {"token": "expired"}}]
    (laptop.root / "root/expired").write_text(yaml.safe_dump(config))
    shutil.copy(stack.node.kubeconfig, laptop.root / "root/login")
    laptop.r(
        f"""
        plan(kubernetes, workers = 1, cluster = {laptop.cluster("/root/login")})
        f <- future({{ Sys.sleep(1); 42 }})
        file.copy("/root/expired", "/root/login", overwrite = TRUE)
        tools::pskill(forward(), 9)
        said <- character()
        v <- withCallingHandlers(value(f), message = function(m) {{
          said <<- c(said, conditionMessage(m))
          if (grepl("login has not expired", conditionMessage(m))) {{
            file.copy("/root/kubeconfig", "/root/login", overwrite = TRUE)
          }}
        }})
        stopifnot(v == 42, sum(grepl("Unauthorized|logged in", said)) == 1L)
        """
    )


@pytest.mark.parametrize("case", ["release", "right", "cluster"])
def test_unreachable_things_are_named_with_fix_and_r_stays_usable(laptop: Laptop, stack: Stack, case: str) -> None:
    release, kubeconfig = "", "/root/kubeconfig"
    if case == "release":
        release, expected, words = "no-team", "KubernetesUnavailableError", "kubectl get deployments --all-namespaces"
    elif case == "right":
        token = stack.kubectl("create", "token", "default").strip()
        config = yaml.safe_load(stack.node.kubeconfig.read_text())
        config["users"] = [{"name": config["users"][0]["name"], "user": {"token": token}}]
        (laptop.root / "root/no-right").write_text(yaml.safe_dump(config))
        kubeconfig, expected, words = "/root/no-right", "KubernetesPermissionError", "ask for the role"
    else:
        kubeconfig, expected, words = "/root/missing", "KubernetesUnreachableError", "kubectl get pods"
    laptop.r(
        f"""
        wrong <- {laptop.cluster(kubeconfig, release)}
        e <- tryCatch(plan(kubernetes, workers = 1, cluster = wrong), error = identity)
        stopifnot(inherits(e, "{expected}"), grepl("{words}", conditionMessage(e)))
        plan(kubernetes, workers = 1, cluster = there)
        stopifnot(value(future(1)) == 1)
        """
    )


@pytest.fixture
def repository(stack: Stack) -> Iterator[None]:
    """A repository of the scheduler's pod, which has a package 'srcpkg'."""
    stack.rscript(
        f"""{WRITE_PACKAGE}
        dir.create("~/repository/src/contrib", recursive = TRUE)
        setwd("~/repository/src/contrib")
        source <- write_package("srcpkg", "f <- function() 'built in the pod'", "Repository: CRAN")
        tools::Rcmd(c("build", source))
        tools::write_PACKAGES(".")
        writeLines('options(repos = c(CRAN = paste0("file://", path.expand("~/repository"))))', "~/.Rprofile")
        """
    )
    yield
    scheduler = stack.scheduler()["metadata"]["name"]
    stack.kubectl("exec", scheduler, "--", "sh", "-c", "rm -rf ~/repository ~/.Rprofile")


def test_package_of_another_platform_is_installed_from_its_repository(laptop: Laptop, repository: None) -> None:
    laptop.r(
        f"""{WRITE_PACKAGE}
        install_package("srcpkg", "f <- function() 'of the laptop'", "Repository: CRAN")
        dir.create(file.path(find.package("srcpkg"), "libs")) # as one with compiled code
        plan(kubernetes, workers = 1, cluster = there)
        target <- future.kubernetes:::target
        target$same_platform <- FALSE # as on another kind of machine
        stopifnot(identical(value(future(srcpkg::f())), "built in the pod"))
        unlink(file.path(find.package("srcpkg"), "libs"), recursive = TRUE)
        remove.packages("srcpkg")
        """
    )


def test_other_r_is_reported_and_packages_without_repository_refused(with_another_r: Laptop, repository: None) -> None:
    with_another_r.r(
        f"""{WRITE_PACKAGE}
        install_package("srcpkg", "f <- function() 'of the laptop'", "Repository: CRAN")
        install_package("ownpkg", "f <- function() 'of no repository'")
        library(ownpkg)
        said <- character()
        withCallingHandlers(plan(kubernetes, workers = 1, cluster = there), message = function(m) {{
          said <<- c(said, conditionMessage(m))
        }})
        here <- as.character(getRversion())
        theirs <- value(future(as.character(getRversion())))
        stopifnot(here < theirs, grepl(sprintf("run R %s and this session %s", theirs, here), said[1], fixed = TRUE))
        stopifnot(any(grepl("will not find: ownpkg. Add them to 'rPackages'", said)))
        x <- as.numeric(1:1e5)
        fit <- value(future(lm(x ~ rev(x))))
        stopifnot(inherits(fit, "lm"), identical(value(future(srcpkg::f())), "built in the pod"))
        errors <- list(
          tryCatch(value(future(ownpkg::f())), error = identity),
          tryCatch(value(future(f())), error = identity), # attached here
          tryCatch(value(future(requireNamespace("ownpkg"))), error = identity)
        )
        for (e in errors[1:2]) {{
          stopifnot(inherits(e, "KubernetesPackageError"), grepl(paste("has it for R", here), conditionMessage(e)))
          stopifnot(grepl("the stack's setting 'image'", conditionMessage(e)))
        }}
        stopifnot(identical(errors[[3]], FALSE), value(future(1)) == 1)
        """
    )
