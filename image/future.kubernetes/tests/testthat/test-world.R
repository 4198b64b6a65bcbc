# Parts of its session that a future finds, and traces that it leaves behind.
use_bed()

test_that("what a future leaves in the global environment is gone for the next", {
  both(function() {
    expect_identical(value(future({
      assign("left", 1, envir = globalenv())
      1
    })), 1)
    expect_false(any(unlist(value(lapply(1:3, function(i) future(exists("left", envir = globalenv())))))))
  })
})

test_that("a plan that a future makes on its worker is gone for the next, time and again", {
  both(function() {
    outer <- future::plan("list")[[1L]]
    kinds <- list(sequential = future::sequential, multisession = future::tweak(future::multisession, workers = 2))
    strategy <- function() intersect(names(kinds), class(future::plan("next")))
    for (nested in names(kinds)) {
      future::plan(list(outer, kinds[[nested]]))
      other <- kinds[[setdiff(names(kinds), nested)]]
      for (i in 1:3) {
        expect_identical(value(future(strategy())), nested)
        f <- future({
          future::plan(other)
          strategy()
        })
        suppressWarnings(changed <- value(f)) # multisession leaves connections open
        expect_identical(changed, setdiff(names(kinds), nested))
      }
    }
  })
})

test_that("variables, time zone and locale of the session hold in its futures, as with stock ones", {
  withr::local_envvar(TZ = "America/New_York", API_KEY = "k", EMPTY = "")
  both(function() {
    expect_identical(value(future(Sys.getenv(c("API_KEY", "TZ"), names = FALSE))), c("k", "America/New_York"))
    expect_identical(value(future(format(as.POSIXct(0), "%H"))), "19")
  })
  plan(kubernetes, workers = 1)
  expect_identical(value(future(Sys.getenv("API_KEY"))), "k")
  Sys.setenv(API_KEY = "changed")
  expect_identical(value(future(Sys.getenv("API_KEY"))), "changed")
  Sys.unsetenv("API_KEY")
  expect_identical(value(future(Sys.getenv("API_KEY", NA))), NA_character_)
  withr::local_locale(LC_COLLATE = "C")
  expect_identical(value(future(Sys.getlocale("LC_COLLATE"))), "C")
})

test_that("packages in a library of the session that its worker has are found", {
  library_of_session <- withr::local_tempdir()
  source <- file.path(withr::local_tempdir(), "mine")
  dir.create(file.path(source, "R"), recursive = TRUE)
  writeLines(c(
    "Package: mine", "Version: 1.0", "Title: T", "Description: D.", "License: none", "Author: a",
    "Maintainer: a <a@example.org>"
  ), file.path(source, "DESCRIPTION"))
  writeLines("export(f)", file.path(source, "NAMESPACE"))
  writeLines("f <- function() 42", file.path(source, "R", "f.R"))
  utils::install.packages(source, lib = library_of_session, repos = NULL, type = "source", quiet = TRUE)
  plan(kubernetes, workers = 1)
  expect_error(value(future(mine::f())), "no package called")
  withr::local_libpaths(library_of_session, action = "prefix")
  expect_identical(value(future(mine::f())), 42)
  expect_identical(value(future(requireNamespace("mine", quietly = TRUE))), TRUE)
})

test_that("what belongs to the session's own process is not sent", {
  withr::local_envvar(R_LIBS_USER = "/nowhere", POD_NAME = "me", HOME = "/nowhere", KUBERNETES_SERVICE_HOST = "none")
  sent <- names(session_world()$env)
  expect_false(any(c("R_LIBS_USER", "POD_NAME", "HOME", "KUBERNETES_SERVICE_HOST", "PAGER") %in% sent))
})

test_that("a future runs in the session's folder where its worker has that, each time", {
  folder <- withr::local_tempdir()
  writeLines("here", file.path(folder, "d.csv"))
  withr::local_dir(folder)
  plan(kubernetes, workers = 1)
  expect_identical(value(future({
    text <- readLines("d.csv")
    setwd("/")
    text
  })), "here")
  expect_identical(value(future(readLines("d.csv"))), "here")
})
