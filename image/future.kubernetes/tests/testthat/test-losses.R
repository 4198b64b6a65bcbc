# Futures whose worker, connection, broker or wait ends before they do.
use_bed()

test_that("a forked child can neither take a future nor make one", {
  both(function() {
    f <- future(3)
    child <- parallel::mcparallel(tryCatch(value(f), error = class))
    expect_true("FutureError" %in% parallel::mccollect(child)[[1L]])
    expect_identical(value(f), 3)
  })
  plan(kubernetes, workers = 1)
  child <- parallel::mcparallel(tryCatch(value(future(1)), error = class))
  expect_true("KubernetesSessionError" %in% parallel::mccollect(child)[[1L]])
  expect_identical(value(future(2)), 2)
})

test_that("futures come although the session closes all its connections", {
  plan(kubernetes, workers = 1)
  f <- future({
    Sys.sleep(0.3)
    7
  })
  closeAllConnections()
  expect_identical(value(f), 7)
  expect_identical(value(future(8)), 8)
})

test_that("a connection of the session is refused by the worker's R, in one run", {
  plan(kubernetes, workers = 1)
  log <- file(tempfile(), "w")
  withr::defer(close(log))
  expect_no_message(expect_error(
    value(future(writeLines("x", log))), "invalid connection. The global 'log' of this future has a connection",
    class = "KubernetesReferenceError"
  ))
  expect_identical(value(future(8)), 8)
})

test_that("an external pointer of the session is named as what a future failed by", {
  skip_if_not_installed("xml2")
  plan(kubernetes, workers = 1)
  class <- "KubernetesReferenceError"
  doc <- xml2::read_xml("<a/>")
  expect_error(value(future(xml2::xml_name(doc))), "'doc' of this future has an external pointer", class = class)
  holder <- new.env()
  holder$inner <- list(doc)
  ask <- local({
    kept <- holder
    function() xml2::xml_name(kept$inner[[1L]])
  })
  expect_error(value(future(ask())), "'ask' of this future has an external pointer", class = class)
  expect_error(
    suppressWarnings(future.apply::future_lapply(list(doc), xml2::xml_name)), "data that this map goes over has an",
    class = class
  )
  ask <- function(...) future(xml2::xml_name(...))
  expect_error(value(ask(doc)), "'...'", fixed = TRUE, class = class)
  # An error of its own in a future that has a pointer, and words like these without one, stay as they are.
  error <- tryCatch(value(future(stop("own ", length(doc)))), error = identity)
  expect_false(inherits(error, class))
  error <- tryCatch(value(future(stop("external pointer"))), error = identity)
  expect_false(inherits(error, class))
  expect_identical(value(future(8)), 8)
  withr::local_options(future.globals.onReference = "error")
  expect_error(value(future(xml2::xml_name(doc))), "reference", class = "FutureError")
})

test_that("an interrupt in a wait leaves the future and the session as they were", {
  plan(kubernetes, workers = 1)
  go <- tempfile()
  f <- future({
    while (!file.exists(go)) Sys.sleep(0.02)
    9
  })
  system(sprintf("(sleep 0.5; kill -INT %d) &", Sys.getpid()))
  expect_identical(tryCatch(value(f), interrupt = function(e) "interrupted"), "interrupted")
  file.create(go)
  expect_identical(value(f), 9)
})

test_that("the future of a lost worker is run again with the same random numbers", {
  plan(kubernetes, workers = 2)
  flag <- tempfile()
  file.create(flag)
  die_once <- function(flag) {
    if (file.exists(flag)) {
      unlink(flag)
      tools::pskill(Sys.getpid(), 9)
      Sys.sleep(5)
    }
    rnorm(1)
  }
  other <- future({
    Sys.sleep(1)
    "undisturbed"
  })
  f <- future(die_once(flag), seed = 42L, label = "fragile")
  expect_message(again <- value(f), "was lost .*signal 9.*future fragile is run again")
  expect_identical(again, value(future(rnorm(1), seed = 42L)))
  expect_identical(value(other), "undisturbed")
})

test_that("a future whose worker is lost each time is given up and says where, with what its R printed", {
  plan(kubernetes, workers = 2, retries = 1)
  f <- future(
    {
      system("echo the last words")
      tools::pskill(Sys.getpid(), 9)
      Sys.sleep(5)
    },
    label = "hopeless", stdout = NA
  )
  error <- suppressMessages(expect_error(value(f), "hopeless was lost 2 times", class = "KubernetesWorkerLostError"))
  expect_s3_class(error, "FutureInterruptError")
  expect_match(conditionMessage(error), "the last words")
  expect_identical(value(future(1)), 1)
})

test_that("progress is signaled at once, and once although its future runs twice", {
  plan(kubernetes, workers = 1)
  flag <- tempfile()
  steps <- 0L
  f <- future({
    now <- structure(class = c("immediateCondition", "condition"), list(message = "", call = NULL))
    for (i in 1:2) signalCondition(now)
    if (!file.exists(flag)) {
      file.create(flag)
      Sys.sleep(0.2)
      tools::pskill(Sys.getpid(), 9)
      Sys.sleep(5)
    }
    1
  })
  withCallingHandlers(suppressMessages(value(f)), immediateCondition = function(c) steps <<- steps + 1L)
  expect_identical(steps, 2L)
})

test_that("a restart of the broker loses nothing and computes nothing twice", {
  plan(kubernetes, workers = 1)
  go <- tempfile()
  runs <- tempfile()
  wait <- function(i) {
    cat("x", file = runs, append = TRUE)
    while (!file.exists(go)) Sys.sleep(0.02)
    i
  }
  fs <- lapply(1:2, function(i) future(wait(i)))
  await(file.exists(runs))
  tools::pskill(bed_pids[["broker"]], 9)
  start_broker()
  system(sprintf("(sleep 2; touch %s) &", go))
  expect_identical(unlist(value(fs)), 1:2)
  expect_identical(nchar(readLines(runs, warn = FALSE)), 2L)
})
