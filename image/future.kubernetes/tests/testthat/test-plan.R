skip_on_os("windows")
start_bed(3L)
withr::defer(stop_bed(), teardown_env())

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

test_that("what a future leaves in the global environment is gone for the next", {
  both(function() {
    expect_identical(value(future({
      assign("left", 1, envir = globalenv())
      1
    })), 1)
    expect_false(any(unlist(value(lapply(1:3, function(i) future(exists("left", envir = globalenv())))))))
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
  expect_no_message(expect_error(value(future(writeLines("x", log))), "invalid connection"))
  expect_identical(value(future(8)), 8)
})

test_that("the workers are free when the plan ends, although a child holds the session's connection", {
  plan(kubernetes, workers = 1)
  f <- future(Sys.sleep(60))
  await(sum(workers()$state == "busy") == 1L)
  system("sleep 20 &")
  plan(sequential)
  await(all(workers()$state == "idle"))
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

test_that("errors of a launch have their class, in value() and in maps", {
  plan(kubernetes, workers = 1)
  stream <- plan("backend")[["stream"]]
  stream$limit <- 1000
  big <- runif(1e4)
  expect_error(value(future(sum(big))), "has room for", class = "KubernetesGlobalsError")
  stream$limit <- 1e9
  expect_identical(value(future(sum(big))), sum(big))
  expect_error(value(future(1, packages = "notThere")), "rPackages", class = "KubernetesPackageError")
})

test_that("the environments in which globals were found do not travel", {
  plan(kubernetes, workers = 1)
  f <- local({
    unrelated <- runif(1e6)
    y <- 2
    future(y)
  })
  expect_lt(f[["task_bytes"]], 1e5)
  expect_identical(value(f), 2)
})

test_that("a large object goes to the broker once, and what was changed is another one", {
  plan(sequential) # the same words again would be the plan that there is
  plan(kubernetes, workers = 1)
  stream <- plan("backend")[["stream"]]
  big <- runif(1e5)
  f <- future(sum(big))
  expect_identical(value(f), sum(big))
  expect_lt(f[["task_bytes"]], 1e5)
  expect_length(ls(stream$objects), 1L)
  expect_identical(value(future(big[1])), big[1])
  expect_length(ls(stream$objects), 1L)
  big[1] <- -1
  expect_identical(value(future(big[1])), -1)
  expect_length(ls(stream$objects), 2L)
  pick <- function(i, x) x[i]
  expect_identical(unlist(future.apply::future_lapply(1:3, pick, big)), big[1:3])
})

test_that("what holds an environment goes with its future, and objects make room for each other", {
  plan(sequential)
  plan(kubernetes, workers = 1)
  stream <- plan("backend")[["stream"]]
  inner <- new.env()
  inner$x <- runif(1e5)
  made <- local({
    z <- runif(1e5)
    function() z[1]
  })
  expect_identical(value(future(inner$x)), inner$x)
  expect_identical(value(future(made())), environment(made)$z[1])
  expect_false(is_large(inner))
  expect_false(is_large(made))
  expect_true(is_large(list(a = data.frame(x = runif(1e5)), b = 1)))
  expect_false(is_large(list(runif(1e5), inner)))
  stream$limit <- 3e6
  for (i in 1:4) {
    x <- runif(1e5) + i
    expect_identical(value(future(x)), x)
  }
  expect_length(ls(stream$objects), 1L)
})

test_that("hundreds of large globals of one future are no line too long", {
  plan(sequential)
  plan(kubernetes, workers = 1)
  many <- lapply(1:150, function(i) runif(4e4))
  names(many) <- paste0("g", seq_along(many))
  f <- future(length(ls(globalenv())), globals = many)
  expect_identical(value(f), 150L)
  expect_length(f[["task_needs"]], most_references)
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
    code <- sprintf(paste(
      "import socket; s = socket.create_server(('127.0.0.1', 0)); open(%s, 'w').write('%%d\\n' %% s.getsockname()[1]);",
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
