"""Parts of its session that a future finds on a real cluster: packages, files, variables, and a setup of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.r_package import WRITE_PACKAGE
from common.paths import REPO
from tests.e2e.conftest import Stack

pytestmark = pytest.mark.timeout(300)

# A folder of its own for each test below the home, and packages that are written and installed here.
PRELUDE = f"""{WRITE_PACKAGE}
options(warn = 1)
suppressMessages(library(future.kubernetes))
folder <- file.path(path.expand("~"), basename(tempfile("world-")))
dir.create(folder)
setwd(folder)
install <- function(name, version, code, imports = character(), exports = "exportPattern('.')") {{
  install_package(name, code, sprintf("Imports: %s", imports), version = version,
                  exports = c(exports, sprintf("import(%s)", imports)))
}}
forget <- function(...) {{
  for (name in c(...)) if (isNamespaceLoaded(name)) unloadNamespace(name)
  suppressMessages(remove.packages(c(...)))
}}
messages <- character()
listening <- function(code) withCallingHandlers(code, message = function(m) {{
  messages <<- c(messages, conditionMessage(m))
  invokeRestart("muffleMessage")
}})
"""
CLEAN = 'plan(sequential); setwd("~"); unlink(folder, recursive = TRUE)\ncat("GOOD")'


def r(stack: Stack, code: str, timeout: float = 200) -> str:
    printed = stack.rscript(f"{PRELUDE}\n{code}\n{CLEAN}", timeout)
    assert "GOOD" in printed
    return printed


def test_installed_packages_are_on_each_worker_in_every_way_of_use(stack: Stack) -> None:
    r(
        stack,
        """
        install("firstpkg", "1.0", "below <- function() 'below'")
        install("secondpkg", "1.0", c(
          "above <- function() paste('above', below())",
          "setClass('Shape', representation(side = 'numeric'))",
          "setGeneric('area', function(x) standardGeneric('area'))",
          "setMethod('area', 'Shape', function(x) x@side^2)"
        ), "firstpkg", c("exportPattern('.')", "exportClasses(Shape)", "exportMethods(area)"))
        plan(kubernetes, workers = 2)
        stopifnot(identical(value(future(secondpkg::above())), "above below"))
        stopifnot(identical(value(future({ library(secondpkg); above() })), "above below"))
        stopifnot(identical(value(future(requireNamespace("firstpkg", quietly = TRUE))), TRUE))
        stopifnot(identical(value(future(requireNamespace("nosuchpkg", quietly = TRUE))), FALSE))
        stopifnot(identical(value(future(as.character(utils::packageVersion("firstpkg")))), "1.0"))
        stopifnot(identical(value(future(basename(system.file("DESCRIPTION", package = "secondpkg")))), "DESCRIPTION"))
        call <- secondpkg::above # its environment is the package's
        stopifnot(identical(value(future(call())), "above below"))
        library(secondpkg)
        stopifnot(identical(value(future(above())), "above below"))
        shape <- new("Shape", side = 3)
        stopifnot(value(future(area(shape))) == 9, is(value(future(new("Shape", side = 4))), "Shape"))
        both <- future.apply::future_sapply(1:4, function(i) {
          Sys.sleep(0.3)
          c(Sys.info()[["nodename"]], secondpkg::above())
        }, future.scheduling = Inf)
        stopifnot(length(unique(both[1, ])) == 2L, both[2, ] == "above below")
        detach("package:secondpkg")
        forget("secondpkg", "firstpkg")
        """,
    )


def test_a_compiled_package_of_the_session_hides_the_images(stack: Stack) -> None:
    r(
        stack,
        """
        plan(kubernetes, workers = 1)
        path <- function() getLoadedDLLs()[["utf8"]][["path"]]
        image <- value(future({ loadNamespace("utf8"); path() }))
        file.copy(find.package("utf8"), .libPaths()[1], recursive = TRUE)
        own <- value(future({ stopifnot(utf8::utf8_width("abc") == 3L); path() }))
        unlink(file.path(.libPaths()[1], "utf8"), recursive = TRUE)
        again <- value(future({ loadNamespace("utf8"); path() }))
        stopifnot(startsWith(image, "/usr/"), !startsWith(own, "/usr/"), identical(again, image))
        """,
    )


def test_compiled_code_that_lacks_a_library_of_the_system_is_named_with_its_fix(stack: Stack) -> None:
    # A copy whose library of compiled code asks for libQ.so in place of libR.so.
    r(
        stack,
        """
        plan(kubernetes, workers = 1)
        own <- .libPaths()[1]
        file.copy(find.package("utf8"), own, recursive = TRUE)
        path <- file.path(own, "utf8", "libs", "utf8.so")
        bytes <- readBin(path, "raw", 1e7)
        bytes[grepRaw("libR.so", bytes, fixed = TRUE) + 3L] <- charToRaw("Q")
        writeBin(bytes, path)
        errors <- list(
          tryCatch(value(future(utf8::utf8_width("abc"))), error = identity),
          tryCatch(value(future({ library(utf8); 1 })), error = identity),
          tryCatch(value(future(1, packages = "utf8")), error = identity)
        )
        unlink(file.path(own, "utf8"), recursive = TRUE)
        for (e in errors) {
          stopifnot(inherits(e, "KubernetesPackageError"), grepl("libQ.so", conditionMessage(e)))
          stopifnot(grepl("aptPackages", conditionMessage(e)))
        }
        stopifnot(value(future(utf8::utf8_width("abc"))) == 3L)
        """,
    )


def test_reference_classes_and_forked_children_work_with_packages_of_the_session(stack: Stack) -> None:
    r(
        stack,
        """
        install("refpkg", "1.0", "Counter <- setRefClass('Counter', fields = list(n = 'numeric'), methods = list(
          add = function() {
            n <<- n + 1
            invisible(.self)
          }
        ))", "methods", c("export(Counter)", "exportClasses(Counter)"))
        # As R6 makes objects: environments whose functions know them as `self`. R6 is not in the image.
        install("sixpkg", "1.0", "Stack <- function() {
          self <- new.env()
          self$items <- NULL
          self$add <- function(x) {
            self$items <- c(self$items, x)
            invisible(self)
          }
          structure(self, class = 'Stack')
        }
        length.Stack <- function(x) length(x$items)", exports = c("export(Stack)", "S3method(length, Stack)"))
        install("forkpkg", "1.0", "f <- function() 'of the package'")
        plan(kubernetes, workers = 1)
        stopifnot(value(future({ counter <- refpkg::Counter$new(n = 0); counter$add()$add(); counter$n })) == 2)
        counter <- refpkg::Counter$new(n = 0)
        stopifnot(value(future({ counter$add(); counter$n })) == 1, counter$n == 0)
        stopifnot(value(future(length(sixpkg::Stack()$add(1)$add(2)))) == 2L)
        stacked <- sixpkg::Stack()$add("here")
        there <- value(future(stacked$add("there")))
        stopifnot(identical(there$items, c("here", "there")), length(there) == 2L, length(stacked) == 1L)
        children <- function(code) value(future(parallel::mclapply(1:2, function(i) {
          tryCatch(code(), error = function(e) c(class(e)[1], conditionMessage(e)))
        }, mc.cores = 2)))
        for (one in children(function() forkpkg::f())) {
          stopifnot(one[1] == "KubernetesPackageError", grepl('loadNamespace("forkpkg")', one[2], fixed = TRUE))
        }
        stopifnot(identical(children(function() requireNamespace("nosuchpkg", quietly = TRUE)), list(FALSE, FALSE)))
        loaded <- value(future({ loadNamespace("forkpkg"); parallel::mclapply(1:2, function(i) forkpkg::f()) }))
        stopifnot(identical(loaded, list("of the package", "of the package")))
        # As callr starts R: with the future's libraries and folder.
        started <- value(future({
          loadNamespace("forkpkg")
          code <- sprintf(".libPaths(%s); cat(basename(getwd()), forkpkg::f())", deparse1(.libPaths()))
          system2(file.path(R.home("bin"), "Rscript"), c("-e", shQuote(code)), stdout = TRUE)
        }))
        stopifnot(identical(started, paste(basename(folder), "of the package")))
        forget("refpkg", "sixpkg", "forkpkg")
        """,
    )


def test_a_package_that_was_installed_again_is_the_new_one_in_the_next_future(stack: Stack) -> None:
    r(
        stack,
        """
        plan(kubernetes, workers = 1)
        install("changing", "1.0", "which <- function() 'one'")
        first <- value(future(c(changing::which(), Sys.getpid())))
        install("another", "1.0", "f <- function() 1")
        same <- value(future(c(changing::which(), Sys.getpid())))
        install("changing", "2.0", "which <- function() 'two'")
        second <- value(future(c(changing::which(), Sys.getpid())))
        stopifnot(first[1] == "one", identical(first, same), second[1] == "two", first[2] != second[2])
        forget("changing", "another")
        e <- tryCatch(value(future(changing::which())), error = identity)
        stopifnot(inherits(e, "packageNotFoundError"))
        stopifnot(value(future(1)) == 1)
        """,
    )


def test_two_sessions_use_two_versions_of_a_package_on_the_same_workers(stack: Stack) -> None:
    r(
        stack,
        """
        in_library <- function(name, version) {
          library <- file.path(folder, name)
          dir.create(library)
          source <- write_package("twice", sprintf("which <- function() '%s'", version), exports = "export(which)")
          install.packages(source, lib = library, repos = NULL, type = "source", quiet = TRUE)
          library
        }
        libraries <- c(in_library("one", "old"), in_library("two", "new"))
        other <- sprintf(paste(
          "suppressMessages(library(future.kubernetes)); .libPaths(c('%s', .libPaths()));",
          "plan(kubernetes, workers = 3);",
          "for (i in 1:10) stopifnot(unlist(value(lapply(1:3, function(j) future(twice::which())))) == 'new');",
          "cat('OTHER')"
        ), libraries[2])
        output <- file.path(tempdir(), "other.txt")
        system(paste("Rscript -e", shQuote(other), ">", output, "2>&1; echo ended >>", output), wait = FALSE)
        .libPaths(c(libraries[1], .libPaths()))
        plan(kubernetes, workers = 3)
        said <- character()
        for (i in 1:600) {
          stopifnot(unlist(value(lapply(1:3, function(j) future(twice::which())))) == "old")
          if (file.exists(output)) said <- readLines(output)
          if (i > 10 && "ended" %in% said) break
        }
        if (!any(grepl("OTHER", said))) stop(paste(said, collapse = " "))
        """,
    )


def test_a_package_under_development_is_the_one_that_was_loaded_last(stack: Stack) -> None:
    # pkgload::load_all() leaves behind a namespace of a folder, with its mark. pkgload is not in the image.
    r(
        stack,
        """
        load_all <- function(code) {
          source <- write_package("inwork", code, folder = folder, version = "0.1")
          if (isNamespaceLoaded("inwork")) unloadNamespace("inwork")
          ns <- new.env(parent = asNamespace("base"))
          info <- new.env(parent = baseenv())
          ns[[".__NAMESPACE__."]] <- info
          info$spec <- c(name = "inwork", version = "0.1")
          info$exports <- new.env()
          info$exports$f <- "f"
          info$imports <- list(base = TRUE)
          info$path <- source
          info$dynlibs <- NULL
          info$S3methods <- matrix("", 0L, 4L)
          ns[[".__DEVTOOLS__"]] <- new.env()
          eval(parse(text = code), ns)
          .Internal(registerNamespace("inwork", ns))
        }
        plan(kubernetes, workers = 1)
        load_all("f <- function() 'one'")
        stopifnot(identical(listening(value(future(inwork::f()))), "one"))
        load_all("f <- function() 'two'")
        stopifnot(identical(listening(value(future(inwork::f()))), "two"))
        stopifnot(length(grep("Installing the package 'inwork'", messages)) == 2L)
        """,
    )


def test_futures_find_the_files_of_the_working_directory_and_only_what_has_changed_travels(stack: Stack) -> None:
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
        Sys.chmod("data/a.txt", "0754")
        Sys.chmod("large.bin", "0400") # it comes in more than one piece
        plan(kubernetes, workers = 1)
        there <- value(future(list(
          getwd(), readLines("data/a.txt"), readLines(file.path(FOLDER, "data/a.txt")), readLines("link.txt"),
          unname(tools::md5sum("large.bin")), list.files(all.files = TRUE, recursive = TRUE),
          as.character(file.info("data/a.txt")$mode)
        ), globals = list(FOLDER = folder)))
        stopifnot(identical(there[1:4], list(folder, "one", "one", "elsewhere")))
        stopifnot(identical(there[[5]], unname(tools::md5sum("large.bin"))), there[[7]] == "754")
        stopifnot(setequal(there[[6]], c("data/a.txt", "large.bin", "link.txt", latin1, "pipe")))
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


def test_a_file_that_changes_during_the_read_is_consistent_then_current(stack: Stack) -> None:
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


def test_files_that_a_worker_cannot_keep_fail_one_future_and_come_again(stack: Stack) -> None:
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


def test_a_file_that_a_future_writes_or_misses_is_explained_once(stack: Stack) -> None:
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


def test_a_folder_with_too_much_in_it_is_said_and_what_fits_is_there(stack: Stack) -> None:
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


def test_a_setup_runs_once_in_each_r_and_fails_with_one_error(stack: Stack) -> None:
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


def test_variables_of_the_stack_are_in_every_r_and_a_change_restarts_no_pod(stack: Stack) -> None:
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


def test_the_project_of_a_run_is_there_for_its_futures(stack: Stack, tmp_path: Path) -> None:
    project = tmp_path / "analysis"
    (project / "data").mkdir(parents=True)
    (project / "data" / "x.csv").write_text("a,b\n1,2\n")
    (project / "helper.R").write_text("twice <- function(x) 2 * x\n")
    (project / "main.R").write_text(
        """
        library(future.kubernetes)
        plan(kubernetes, workers = 1)
        found <- value(future({ source("helper.R"); twice(read.csv("data/x.csv")$b) }))
        writeLines(format(found), "found.txt")
        """
    )
    done = subprocess.run(
        [sys.executable, "-m", "cli", "run", str(project), "main.R"],
        cwd=REPO, env=stack.environment(), capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (project / "found.txt").read_text() == "4\n"
