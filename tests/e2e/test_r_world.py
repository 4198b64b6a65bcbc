"""Parts of its session that a future finds on a real cluster: files, variables, and a setup of its own."""

from __future__ import annotations

import json

import pytest

from tests.e2e.conftest import Stack
from tests.e2e.world import r

pytestmark = pytest.mark.timeout(300)


def test_futures_find_working_directorys_files_and_only_changes_travel(stack: Stack) -> None:
    r(
        stack,
        """
        dir.create("data")
        writeLines("one", "data/a.txt")
        writeBin(as.raw(rep(1:200, 2e5)), "large.bin") # more than two bundles
        writeLines("hidden", ".hidden")
        writeLines(c("# a comment", "*.log", "/out"), ".futureignore")
        writeLines("x", "x.log")
        dir.create("out")
        writeLines("x", "out/y.txt")
        writeLines("elsewhere", file.path(tempdir(), "elsewhere.txt"))
        file.symlink(file.path(tempdir(), "elsewhere.txt"), "link.txt")
        file.symlink("/", "root")
        latin1 <- rawToChar(as.raw(c(0x66, 0xfc, 0x72)))
        writeLines("latin", latin1)
        system("mkfifo pipe")
        file.symlink("/dev/zero", "zero") # a device of one's own needs root
        Sys.chmod("data/a.txt", "0754")
        Sys.chmod("large.bin", "0400") # it comes in more than one piece
        plan(kubernetes, workers = 1)
        there <- listening(value(future(list(
          getwd(), readLines("data/a.txt"), readLines(file.path(FOLDER, "data/a.txt")), readLines("link.txt"),
          unname(tools::md5sum("large.bin")), list.files(all.files = TRUE, recursive = TRUE),
          as.character(file.info("data/a.txt")$mode)
        ), globals = list(FOLDER = folder))))
        stopifnot(length(messages) == 1L, grepl("do not find pipe, zero of", messages))
        stopifnot(identical(there[1:4], list(folder, "one", "one", "elsewhere")))
        stopifnot(identical(there[[5]], unname(tools::md5sum("large.bin"))), there[[7]] == "754")
        stopifnot(setequal(there[[6]], c("data/a.txt", "large.bin", "link.txt", latin1)))
        sent <- function() future.kubernetes:::stream_of(list(backend = plan("backend")))$object_bytes
        before <- sent()
        for (i in 1:5) {
          writeLines(strrep("x", i), "data/a.txt")
          writeLines("new", sprintf("new-%d", i))
          found <- value(future(c(readLines("data/a.txt"), readLines(sprintf("new-%d", i)))))
          stopifnot(identical(found, c(strrep("x", i), "new")))
          unlink(sprintf("new-%d", i))
        }
        stopifnot(value(future(file.exists("new-5"))) == FALSE)
        stopifnot(sent() - before < 1e5)
        """,
    )


def test_file_that_changes_during_the_read_is_consistent_then_current(stack: Stack) -> None:
    r(
        stack,
        """
        writeLines("0", "growing.txt")
        plan(kubernetes, workers = 1)
        grow <- "i=0; until [ -e stop ]; do i=$((i + 1)); echo $i >> growing.txt; sleep 0.01; done; touch stopped"
        system(sprintf("(%s)", grow), wait = FALSE)
        for (i in 1:20) {
          lines <- value(future(suppressWarnings(readLines("growing.txt")))) # the last line may be half of one
          whole <- head(lines, -1L)
          stopifnot(identical(whole, as.character(seq_along(whole) - 1L)))
        }
        file.create("stop")
        for (i in 1:100) if (file.exists("stopped")) break else Sys.sleep(0.1)
        stopifnot(identical(value(future(readLines("growing.txt"))), readLines("growing.txt")))
        """,
    )


def test_files_without_room_fail_one_future_and_come_again(stack: Stack) -> None:
    # A file in place of a folder takes no file, as a full disk: that one is in tests/broker/test_files.py.
    r(
        stack,
        """
        dir.create("data")
        writeLines("one", "data/one.txt")
        plan(kubernetes, workers = 1)
        value(future({ unlink("data", recursive = TRUE); file.create("data") }))
        writeLines("two", "data/two.txt")
        e <- tryCatch(value(future(1)), error = identity)
        stopifnot(inherits(e, "KubernetesDataError"), grepl("could not keep the session's files", conditionMessage(e)))
        stopifnot(identical(value(future(sapply(dir("data", full.names = TRUE), readLines, USE.NAMES = FALSE))),
                            c("one", "two")))
        """,
    )


def test_file_that_a_future_writes_or_misses_is_explained_once(stack: Stack) -> None:
    r(
        stack,
        """
        writeLines("x", "here.txt")
        plan(kubernetes, workers = 1)
        for (i in 1:2) listening(value(future(writeLines("x", sprintf("out-%d.txt", i)))))
        for (i in 1:2) listening(try(value(future(read.csv("missing.csv"))), silent = TRUE))
        writing <- grep("out-1.txt", messages, value = TRUE)
        missing <- grep("looks for files", messages, value = TRUE)
        stopifnot(length(messages) == 2L, length(writing) == 1L, length(missing) == 1L)
        stopifnot(grepl("stays on that worker", writing), grepl(folder, missing, fixed = TRUE))
        stopifnot(!file.exists("out-1.txt"))
        """,
    )


def test_folder_with_too_much_is_reported_and_partly_sent(stack: Stack) -> None:
    r(
        stack,
        """
        options(future.kubernetes.filesMB = 1)
        writeLines("x", "small.txt")
        writeBin(raw(2e6), "large.bin")
        plan(kubernetes, workers = 1)
        found <- listening(value(future(list.files())))
        stopifnot(identical(found, "small.txt"), length(messages) == 1L, grepl("large.bin", messages))
        stopifnot(identical(listening(value(future(list.files()))), "small.txt"), length(messages) == 1L)
        options(future.kubernetes.filesMB = "many")
        e <- tryCatch(value(future(1)), error = identity)
        stopifnot(inherits(e, "KubernetesGlobalsError"), grepl("filesMB is \\"many\\"", conditionMessage(e)))
        options(future.kubernetes.filesMB = 0)
        stopifnot(identical(value(future(list.files())), character()))
        options(future.kubernetes.filesMB = NULL)
        plan(sequential)
        dir.create("many")
        for (i in 1:10001) file.create(file.path("many", i))
        plan(kubernetes, workers = 1)
        stopifnot(identical(listening(value(future(list.files()))), character()))
        stopifnot(grepl("more than 10000 files", messages[2]), length(messages) == 2L)
        """,
    )


def test_setup_runs_once_per_r_and_fails_with_one_error(stack: Stack) -> None:
    r(
        stack,
        """
        plan(kubernetes, workers = 2, setup = quote({ runs <- c(get0("runs"), Sys.getpid()); secret <- "from setup" }))
        two <- future.apply::future_lapply(1:6, function(i) { Sys.sleep(0.2); list(runs, Sys.getpid(), secret) },
          future.globals = FALSE, future.scheduling = Inf)
        for (one in two) stopifnot(identical(one, list(one[[2]], one[[2]], "from setup")))
        plan(kubernetes, workers = 1, setup = function() stop("no database"))
        for (i in 1:2) {
          e <- tryCatch(value(future(1)), error = identity)
          stopifnot(inherits(e, "KubernetesSetupError"), grepl("on its worker: no database", conditionMessage(e)))
        }
        for (wrong in list(1, "library(x)", function(x) x)) {
          e <- tryCatch(plan(kubernetes, workers = 1, setup = wrong), error = identity)
          stopifnot(inherits(e, "KubernetesSetupError"))
        }
        e <- tryCatch(plan(kubernetes, workers = 1, setup = { NULL }), error = identity)
        stopifnot(inherits(e, "KubernetesSetupError"), grepl("setup = quote", conditionMessage(e)))
        plan(kubernetes, workers = 1)
        stopifnot(value(future(1)) == 1, !value(future(exists("secret"))))
        """,
    )


def test_a_secret_variable_is_in_no_log_and_no_message(stack: Stack) -> None:
    secret = "geheim-4711"
    printed = r(
        stack,
        f"""
        Sys.setenv(API_KEY = paste0("geheim-", 4711))
        plan(kubernetes, workers = 1)
        stopifnot(value(future(nchar(Sys.getenv("API_KEY")))) == {len(secret)})
        try(value(future(stop("no"))))
        writeLines("code", "data.txt")
        try(value(future(quit("no"))))
        print(workers())
        print(plan("backend"))
        print(future(1))
        """,
    )
    logs = "".join(
        stack.kubectl("logs", pod["metadata"]["name"], "--all-containers", "--prefix")
        for component in ("scheduler", "worker")
        for pod in stack.pods(component)
    )
    assert "future-" in logs
    assert secret not in printed + logs


def test_variables_of_the_stack_reach_every_r_without_pod_restarts(stack: Stack) -> None:
    name = f"{stack.workload.split('/')[1].removesuffix('-worker')}-environment"
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"STACK_KEY": "first\n"}}
    before = stack.scheduler()["metadata"]["uid"]
    code = """
        plan(kubernetes, workers = 1)
        cat("SEEN", Sys.getenv("STACK_KEY"), value(future(Sys.getenv("STACK_KEY"))))
    """
    stack.kubectl("apply", "-f", "-", input=json.dumps(secret))
    try:
        stack.wait("the variable to arrive", 150, lambda: "SEEN first\n first" in r(stack, code))
    finally:
        stack.kubectl("delete", "secret", name)
    assert stack.scheduler()["metadata"]["uid"] == before
