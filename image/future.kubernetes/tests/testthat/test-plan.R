use_bed()

test_that("futures run on each worker, and no more at once than the plan says", {
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
  plan(kubernetes, workers = 1)
  expect_length(unique(unlist(value(lapply(1:4, function(i) future(Sys.getpid()))))), 1L)
})

test_that("future() returns at once although all workers are busy, and counts are true", {
  plan(kubernetes, workers = 2)
  go <- tempfile()
  wait <- function(i) {
    while (!file.exists(go)) Sys.sleep(0.02)
    i
  }
  fs <- lapply(1:5, function(i) future(wait(i), label = paste0("waits-", i)))
  await(sum(workers()$state == "busy") == 2L)
  expect_identical(sort(subset(workers(), state == "busy")$label), c("waits-1", "waits-2"))
  expect_identical(nbrOfFreeWorkers(), 0L)
  expect_false(any(resolved(fs)))
  file.create(go)
  expect_identical(unlist(value(fs)), 1:5)
  expect_identical(nbrOfFreeWorkers(), 2L)
})

test_that("workers() tells what each does, and prints a summary", {
  w <- workers()
  expect_named(w, c("pod", "node", "state", "since", "tasks", "restarts", "session", "label", "memory", "cpu"))
  expect_output(print(w), "3 workers: 3 idle")
})

test_that("values, errors, output, warnings and globals are as with stock futures", {
  both(function() {
    a <- 20
    expect_identical(value(future(a + 1)), 21)
    expect_error(value(future(stop("boom"))), "boom")
    expect_output(value(future(cat("hello"))), "hello")
    expect_warning(value(future(warning("careful"))), "careful")
    x %<-% (a * 2)
    expect_identical(x, 40)
    expect_identical(value(future(4, lazy = TRUE)), 4)
  })
})

test_that("random numbers are those of other backends, and a plan leaves the session's alone", {
  draw <- function() unlist(value(lapply(1:4, function(i) future(rnorm(1), seed = as.integer(i)))))
  set.seed(3)
  next_one <- runif(1)
  set.seed(3)
  plan(kubernetes, workers = 2)
  expect_identical(runif(1), next_one)
  here <- draw()
  plan(sequential)
  expect_identical(here, draw())
})

test_that("the R of a plan is kept for its futures, and another plan has a fresh one", {
  plan(kubernetes, workers = 1)
  pid <- value(future(Sys.getpid()))
  expect_identical(value(future(Sys.getpid())), pid)
  plan(sequential)
  plan(kubernetes, workers = 1)
  expect_false(identical(value(future(Sys.getpid())), pid))
})

test_that("a plan that was left is taken up again as it was", {
  plan(kubernetes, workers = 2)
  old <- plan(sequential)
  plan(old)
  expect_identical(value(future(6 * 7)), 42)
  expect_identical(nbrOfWorkers(), 2L)
})

test_that("a canceled future ends at once, one canceled without interrupt gives its value", {
  both(function() {
    f <- future({
      Sys.sleep(0.5)
      5
    })
    cancel(f, interrupt = FALSE)
    expect_identical(value(f), 5)
  })
  plan(kubernetes, workers = 1)
  f <- future(Sys.sleep(60))
  await(sum(workers()$state == "busy") == 1L)
  cancel(f)
  expect_error(value(f), class = "FutureCanceledError")
  expect_identical(value(future(7)), 7)
})

test_that("an error in a map ends it where interrupts are off", {
  skip_if_not_installed("future.apply")
  plan(kubernetes, workers = 2, interrupts = FALSE)
  expect_error(suppressWarnings(future.apply::future_lapply(1:2, function(i) if (i == 1) stop("bad") else i)), "bad")
  expect_identical(value(future(1)), 1)
})

test_that("an interrupted map leaves nothing that runs or waits, so that an elastic plan can rest", {
  skip_if_not_installed("future.apply")
  plan(kubernetes, workers = c(1, 3))
  begun <- tempfile()
  slow <- function(i) {
    file.create(begun)
    Sys.sleep(600)
  }
  system(sprintf("(until [ -e %s ]; do sleep 0.05; done; kill -INT %d) &", begun, Sys.getpid()))
  caught <- suppressWarnings(tryCatch(
    future.apply::future_lapply(1:6, slow, future.scheduling = Inf),
    error = identity, interrupt = identity
  ))
  expect_match(class(caught)[1L], "[Ii]nterrupt")
  await(all(workers()$state == "idle"))
  expect_identical(plan("backend")[["stream"]]$active, 0L)
  expect_identical(sum(workers()$restarts), 0L)
  expect_identical(value(future(1)), 1)
})

test_that("the workers are free when the plan ends, although a child holds the session's connection", {
  plan(kubernetes, workers = 1)
  f <- future(Sys.sleep(60))
  await(sum(workers()$state == "busy") == 1L)
  system("sleep 20 &")
  plan(sequential)
  expect_true(await(all(workers()$state == "idle")))
})

test_that("report() is about the futures of this session since a time", {
  file <- withr::local_tempfile(fileext = ".html")
  plan(kubernetes, workers = 2)
  begin <- Sys.time()
  busy <- function() {
    end <- proc.time()[[1L]] + 0.3
    while (proc.time()[[1L]] < end) NULL
  }
  fs <- lapply(1:4, function(i) future(busy(), label = paste0("<i>burn</i>-", i)))
  invisible(value(fs))
  said <- capture.output(path <- report(file, since = begin, price = 36, open = FALSE))
  expect_match(said[1], "^4 futures in .*: 4 done$")
  expect_match(said[2], "on 2 workers.*CPU time .* of 4 runs$")
  expect_match(said[3], "^cost .* at 36 each")
  html <- paste(readLines(path), collapse = "\n")
  expect_match(html, "&lt;i&gt;burn&lt;/i&gt;-4", fixed = TRUE)
  expect_no_match(html, "<i>burn", fixed = TRUE)
  cpu <- as.numeric(sub(".*CPU time</dt><dd>([0-9.]+) s<.*", "\\1", html))
  expect_gt(cpu, 1)
  expect_lt(cpu, 4)
  expect_error(report(file, since = Sys.time(), open = FALSE), "without 'since'", class = "KubernetesReportError")
  plan(sequential)
})

test_that("more than the maximum is refused, and a range is cut to it", {
  expect_error(plan(kubernetes, workers = 6), "allows 0 to 5", class = "KubernetesMaximumError")
  expect_message(plan(kubernetes, workers = c(1, 9)), "allows 5 workers")
  expect_identical(nbrOfWorkers(), 5L)
  plan(sequential)
})

test_that("a broker of another version, or without one, is refused with the fix", {
  folder <- tempfile()
  dir.create(folder)
  withr::local_envvar(FUTURE_KUBERNETES_RUN = folder)
  for (banner in c("protocol 0", "protocol 99", "hello")) {
    # Renamed into place, as the broker does: a file that is there already may be empty still.
    code <- sprintf(paste(
      "import os, socket; f = %s; s = socket.create_server(('127.0.0.1', 0));",
      "open(f + '.new', 'w').write('%%d\\n' %% s.getsockname()[1]); os.rename(f + '.new', f);",
      "c = s.accept()[0]; c.sendall(b'%s\\n'); c.recv(9999)"
    ), deparse(file.path(folder, "broker.port")), banner)
    system2("python3", c("-c", shQuote(code)), wait = FALSE)
    await(file.exists(file.path(folder, "broker.port")))
    stated <- if (banner == "hello") "no protocol version" else sub("protocol", "protocol version", banner)
    expect_error(
      workers(), paste0("states protocol version ", protocol_version, " and the broker of this pod ", stated),
      class = "KubernetesVersionError"
    )
    unlink(file.path(folder, "broker.port"))
  }
})

test_that("a look at many futures takes in once what has come for all", {
  plan(kubernetes, workers = 1)
  go <- tempfile()
  futures <- lapply(1:50, function(i) future(while (!file.exists(go)) Sys.sleep(0.02)))
  heard <- 0
  real <- hear
  local({
    local_mocked_bindings(hear = function(...) {
      heard <<- heard + 1
      real(...)
    }, .package = "future.kubernetes")
    expect_false(any(vapply(futures, resolved, NA)))
  })
  expect_lt(heard, 25)
  file.create(go)
  await(all(vapply(futures, resolved, NA)))
  value(futures)
})
