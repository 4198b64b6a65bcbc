# Large values of results: one that many futures return travels once.
use_bed()

# Bytes of results that workers sent for the futures that have ended since there were `seen` such events.
results_sent <- function(seen = 0L) {
  events <- jsonlite::fromJSON(ask("events"))
  if (length(events) == 0L) {
    return(numeric())
  }
  ended <- events[events$event == "ended", ]
  saved <- if (is.null(ended$saved)) 0 else ifelse(is.na(ended$saved), 0, ended$saved)
  utils::tail(ended$bytes - saved, if (seen > 0L) -seen else nrow(ended))
}

test_that("a large value that many futures return comes once, and each future has a copy of it", {
  plan(sequential)
  plan(kubernetes, workers = 2)
  seen <- length(results_sent())
  make <- function(i) {
    set.seed(1)
    runif(1e6)
  }
  fs <- lapply(1:6, function(i) future(make(i), seed = NULL))
  values <- value(fs)
  expect_lt(sum(results_sent(seen)), 8.1e6)
  expect_gt(sum(results_sent(seen)), 7.9e6)
  for (value in values) expect_identical(value, make(1))
  expect_length(unique(vapply(values, rlang::obj_address, "")), 6L)
  await({
    resolved(future(1))
    length(list.files(file.path(bed_folder, "results"), "[.]result$")) == 0L
  })
  expect_length(ls(plan("backend")[["stream"]]$values), 0L)
})

test_that("large elements of a map's pieces come once, in their places", {
  plan(sequential)
  plan(kubernetes, workers = 2)
  seen <- length(results_sent())
  big <- as.numeric(seq_len(1e5)) + 0.5
  frame <- data.frame(x = big, y = "a")
  out <- future.apply::future_lapply(c(a = 1, b = 2, c = 3, d = 4, e = 5, f = 6), function(i) {
    if (i == 3) NULL else if (i == 5) frame else if (i %% 2 == 0) big else list(i)
  })
  expect_identical(out, list(a = list(1), b = big, c = NULL, d = big, e = frame, f = big))
  expect_lt(sum(results_sent(seen)), 2.6e6)
})

test_that("values of every kind are those of other backends", {
  both(function() {
    here <- new.env()
    here$x <- runif(1e5)
    cars <- mtcars[rep(1:32, 300), ]
    expect_identical(value(future(list(a = cars, b = NULL, n = 1L))), list(a = cars, b = NULL, n = 1L))
    expect_identical(value(future(structure(list(cars), class = "mine"))), structure(list(cars), class = "mine"))
    expect_identical(value(future(seq_len(1e6))), seq_len(1e6))
    expect_identical(value(future(as.character(seq_len(1e5)))), as.character(seq_len(1e5)))
    expect_identical(value(future(here))$x, here$x)
    expect_identical(value(future(factor(rep(letters, 1e4)))), factor(rep(letters, 1e4)))
    expect_equal(coef(value(future(lm(mpg ~ cyl, cars)))), coef(lm(mpg ~ cyl, cars)))
    expect_output(v <- value(future({
      cat("said")
      rep(TRUE, 1e6)
    })), "said")
    expect_identical(v, rep(TRUE, 1e6))
    expect_identical(value(future(raw(20e6))), raw(20e6))
  })
})

test_that("a value of a broker that was killed is there, and its future runs once", {
  plan(sequential)
  plan(kubernetes, workers = 2)
  ran <- tempfile()
  fs <- lapply(1:4, function(i) {
    future({
      cat("x", file = ran, append = TRUE)
      rep(0.5, 1e6)
    })
  })
  await(all(resolved(fs)))
  tools::pskill(bed_pids$broker, 9)
  start_broker()
  for (value in value(fs)) expect_identical(value, rep(0.5, 1e6))
  expect_identical(readLines(ran, warn = FALSE), "xxxx")
  await(nrow(workers()) == 3L)
})

test_that("the worker's program has the same idea of content", {
  program <- file.path(bed_home, "future_kubernetes", "worker", "worker.R")
  skip_if_not(file.exists(program))
  code <- as.list(parse(program, keep.source = FALSE)[[1L]][[3L]][[3L]]) # the body of serve()
  defined <- Filter(function(line) is.call(line) && identical(line[[2L]], quote(is_content)), code[-1L])
  expect_identical(deparse(eval(defined[[1L]][[3L]])), deparse(`attributes<-`(is_content, NULL)))
})

test_that("functions that a future leaves under names of R's own do not end its worker", {
  use_bed()
  both(function() {
    f <- future({
      for (name in c("length", "inherits", "serialize", "identical")) {
        assign(name, function(...) stop("the future's own"), envir = globalenv())
      }
      43
    })
    expect_identical(value(f), 43)
    expect_identical(value(future(length(1:3))), 3L)
  })
})

worker_program <- file.path(bed_home, "future_kubernetes", "worker")

test_that("the worker's functions are compiled when the image is built", {
  skip_if_not(file.exists(file.path(worker_program, "worker.rds")))
  program <- readRDS(file.path(worker_program, "worker.rds"))
  expect_identical(program$made_by, R.version.string)
  functions <- c(program$changed, Filter(is.function, as.list(program)))
  expect_setequal(
    names(functions),
    c(
      "loadNamespace", "find.package", "packageDescription", "dyn.load",
      "changed_functions", "serve", "session_packages", "project_files", "session_setup"
    )
  )
  for (name in names(functions)) {
    expect_match(paste(utils::capture.output(print(functions[[name]])), collapse = "\n"), "<bytecode", label = name)
  }
})

test_that("a worker's R reads what another R has compiled from its sources instead", {
  skip_if_not(file.exists(file.path(worker_program, "start.R")))
  folder <- withr::local_tempdir()
  file.copy(list.files(worker_program, "[.]R$", full.names = TRUE), folder)
  said <- function(made_by) {
    program <- list(made_by = made_by, serve = function(...) cat("compiled"))
    saveRDS(program, file.path(folder, "worker.rds"))
    command <- c(file.path(folder, "start.R"), "PORT=1", "TIMEOUT=1")
    paste(suppressWarnings(system2("Rscript", command, stdout = TRUE, stderr = TRUE)), collapse = "\n")
  }
  expect_match(said(R.version.string), "compiled", fixed = TRUE)
  expect_match(said("R version 3.0.0"), "cannot open the connection", fixed = TRUE)
})
