"""Packages of its session that a future finds on a real cluster."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import Stack
from tests.e2e.world import r

pytestmark = pytest.mark.timeout(300)


def test_installed_packages_are_on_workers_in_every_way_of_use(stack: Stack) -> None:
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


def test_compiled_code_without_its_system_library_is_named_with_fix(stack: Stack) -> None:
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


def test_reference_classes_and_forked_children_work_with_session_packages(stack: Stack) -> None:
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


def test_package_installed_again_is_new_in_the_next_future(stack: Stack) -> None:
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


def test_two_sessions_use_two_versions_on_the_same_workers(stack: Stack) -> None:
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


def test_package_under_development_is_the_one_loaded_last(stack: Stack) -> None:
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
