skip_on_os("windows")
stand_in(wanted = 3L)
on_all_done <- withr::defer(stop_stand_in(), teardown_env())

test_that("the plan connects to its workers and futures run on each", {
  plan(kubernetes, workers = 3)
  expect_identical(nbrOfWorkers(), 3L)
  fs <- lapply(1:3, function(i) {
    future({
      Sys.sleep(0.5)
      Sys.getpid()
    })
  })
  expect_length(unique(unlist(value(fs))), 3L)
  expect_identical(nbrOfFreeWorkers(), 3L)
})

test_that("workers() tells pod, node, state and tasks, and prints a summary", {
  w <- workers()
  expect_named(w, c("pod", "node", "state", "since", "tasks", "restarts", "session"))
  expect_identical(sum(w$tasks), 3L)
  expect_output(print(w), "3 workers: 3 busy")
})

test_that("values, errors, output, warnings and globals are as with other backends", {
  a <- 20
  expect_identical(value(future(a + 1)), 21)
  expect_error(value(future(stop("boom"))), "boom")
  expect_output(value(future(cat("hello"))), "hello")
  expect_warning(value(future(warning("careful"))), "careful")
  x %<-% (a * 2)
  expect_identical(x, 40)
})

test_that("more futures than workers are all resolved", {
  fs <- lapply(1:10, function(i) future(i^2))
  expect_identical(unlist(value(fs)), (1:10)^2)
})

test_that("what a future leaves in the global environment is gone for the next", {
  expect_identical(value(future({
    assign("left", 1, envir = globalenv())
    1
  })), 1)
  expect_false(any(unlist(value(lapply(1:3, function(i) future(exists("left", envir = globalenv())))))))
})

test_that("a worker with the session's version of future is sent no functions, and another one is", {
  sent <- list()
  send <- send_call
  local_mocked_bindings(send_call = function(node, fun, args = list()) {
    sent[[length(sent) + 1L]] <<- args
    send(node, fun, args)
  })
  plan(kubernetes, workers = 1)
  sent <- list()
  expect_identical(value(future(1)), 1)
  expect_length(sent, 1L)
  expect_false(any(vapply(sent[[1L]], is.function, NA)))

  version <- getNamespaceVersion("future")
  local_mocked_bindings(getNamespaceVersion = function(ns) paste0(version, ".1"), .package = "base")
  plan(sequential)
  plan(kubernetes, workers = 1)
  sent <- list()
  expect_identical(value(future(2)), 2)
  expect_identical(vapply(sent[[1L]], is.function, NA), c(TRUE, TRUE, FALSE))
  plan(kubernetes, workers = 3)
})

test_that("random numbers are those of other backends", {
  draw <- function() unlist(value(lapply(1:4, function(i) future(rnorm(1), seed = as.integer(i)))))
  here <- draw()
  plan(sequential)
  expect_identical(here, draw())
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

test_that("a future whose worker is lost each time is given up and says where", {
  plan(kubernetes, workers = 2, retries = 1)
  f <- future(
    {
      tools::pskill(Sys.getpid(), 9)
      Sys.sleep(5)
    },
    label = "hopeless"
  )
  error <- suppressMessages(expect_error(value(f), "hopeless was lost 2 times", class = "KubernetesWorkerLostError"))
  expect_s3_class(error, "FutureInterruptError")
  expect_identical(value(future(1)), 1)
})

test_that("a canceled future frees its worker", {
  plan(kubernetes, workers = 1)
  f <- future(Sys.sleep(60))
  cancel(f)
  expect_error(value(f), class = "FutureCanceledError")
  expect_identical(value(future(7)), 7)
})

test_that("an elastic plan grows while futures queue", {
  scale_workers(1, wait = FALSE)
  plan(kubernetes, workers = c(1, 4))
  expect_identical(nbrOfWorkers(), 4L)
  fs <- lapply(1:8, function(i) {
    future({
      Sys.sleep(1)
      Sys.getpid()
    })
  })
  expect_gte(length(unique(unlist(value(fs)))), 2L)
})

test_that("an elastic plan without futures schedules a release of its surplus workers", {
  said <- function() readLines(file.path(stand_in_folder, "said"))
  scale_workers(3, wait = FALSE)
  plan(kubernetes, workers = c(1, 3))
  unlink(file.path(stand_in_folder, "said")) # lines of the plan before
  backend <- plan("backend")
  add_nodes(backend, 2L)
  backend[["target"]] <- 3L
  ids <- vapply(unclass(backend[["workers"]]), function(node) node$lease, "")
  expect_identical(value(lapply(1:2, function(i) future(i))), as.list(1:2))
  expect_identical(said(), sprintf("release 30 %s %s", ids[2L], ids[3L]))
  expect_identical(value(future(3)), 3)
  expect_identical(said()[2L], "cancel-release")
  expect_length(backend[["workers"]], 3L)

  # What the broker has reclaimed is no loss, and is not awaited.
  for (node in unclass(backend[["workers"]])[2:3]) close_node(node)
  writeLines("2", file.path(stand_in_folder, "reclaimed"))
  expect_silent(expect_identical(value(future(4)), 4))
  expect_length(backend[["workers"]], 1L)
  expect_identical(backend[["target"]], 1L)
  unlink(file.path(stand_in_folder, "reclaimed"))
})

test_that("scale_workers() lets workers join and leave the running plan", {
  plan(kubernetes, workers = 1)
  scale_workers(3)
  expect_identical(nbrOfWorkers(), 3L)
  expect_identical(nrow(workers()), 3L)
  scale_workers(1)
  expect_identical(nbrOfWorkers(), 1L)
  expect_identical(value(future(5)), 5)
})

test_that("more than the maximum is refused before anything is scaled", {
  expect_error(plan(kubernetes, workers = 6), "allows 0 to 5", class = "KubernetesMaximumError")
  plan(sequential)
})

test_that("what stands in the way is told within seconds, and nothing stays asked for", {
  scale_workers(2, wait = FALSE)
  writeLines("pod-1: ImagePullBackOff: no such image", file.path(stand_in_folder, "problem"))
  file.create(file.path(stand_in_folder, "none"))
  start <- Sys.time()
  expect_error(
    suppressMessages(plan(kubernetes, workers = 4)), "4 workers were asked for, 0 came. pod-1: ImagePullBackOff",
    class = "KubernetesUnavailableError"
  )
  expect_lt(as.numeric(difftime(Sys.time(), start, units = "secs")), 10)
  expect_identical(kubernetes_status()$wanted, 2L)
  plan(sequential)
  unlink(file.path(stand_in_folder, c("problem", "none")))
})

test_that("a broker of another version, or without one, is refused with the fix", {
  on.exit(unlink(file.path(stand_in_folder, "version")))
  for (banner in c("protocol 0", "protocol 2", "hello")) {
    writeLines(banner, file.path(stand_in_folder, "version"))
    stated <- if (banner == "hello") "no protocol version" else sub("protocol", "protocol version", banner)
    expect_error(
      workers(), paste0("states protocol version 1 and the broker of this pod ", stated, ".*Restart the R session"),
      class = "KubernetesVersionError"
    )
    expect_error(plan(kubernetes, workers = 1), class = "KubernetesVersionError")
    plan(sequential)
  }
})

test_that("a worker that was expected back and has gone is asked for anew", {
  scale_workers(2, wait = FALSE)
  file.create(file.path(stand_in_folder, "expected"))
  expect_silent(plan(kubernetes, workers = 3))
  expect_identical(nrow(workers()), 3L)
  expect_identical(kubernetes_status()$wanted, 3L)
  plan(sequential)
})
