# Data and numbers that are too much for a session, the broker or a worker.
use_bed()

test_that("futures beyond the broker's room wait, the session hears of it once, and all values come", {
  plan(sequential)
  plan(kubernetes, workers = 1)
  stream <- plan("backend")[["stream"]]
  stream$limit <- 1e6
  told <- character()
  most <- 0
  values <- withCallingHandlers(
    {
      fs <- lapply(1:5, function(i) {
        data <- list(globalenv(), runif(5e4) + i) # 0.4 MB that are no object, as they hold an environment
        f <- future({
          Sys.sleep(0.2)
          data[[2L]][1L]
        })
        most <<- max(most, stream$bytes)
        f
      })
      unlist(value(fs))
    },
    message = function(m) {
      told <<- c(told, conditionMessage(m))
      invokeRestart("muffleMessage")
    }
  )
  expect_identical(floor(values), as.numeric(1:5))
  expect_lte(most, 1e6)
  expect_match(told, "^[01][.][0-9] MB of futures wait for workers")
  expect_length(told, 3L) # the third to the fifth future have waited
  expect_identical(stream$bytes, 0)
})

test_that("data that cannot be serialized end their future with one class, and nothing else", {
  plan(kubernetes, workers = 1)
  deep <- runif(1e5)
  for (i in 1:1e5) deep <- list(deep)
  held <- list(globalenv(), deep)
  expect_error(value(future(length(deep))), "sent by this session: C stack", class = "KubernetesDataError")
  expect_error(value(future(length(held))), "sent by this session: C stack", class = "KubernetesDataError")
  expect_error(value(future({
    x <- 1
    for (i in 1:1e5) x <- list(x)
    x
  })), "sent by its worker: C stack", class = "KubernetesDataError")
  expect_identical(value(future(1)), 1)
  expect_identical(sum(workers()$restarts), 0L)
})

test_that("a result that the session cannot hold is an error of its future, and others come", {
  skip_if(!nzchar(Sys.which("prlimit")))
  limit <- function(bytes) system2("prlimit", c("--pid", Sys.getpid(), sprintf("--as=%s:", bytes)))
  plan(kubernetes, workers = 1)
  large <- future(numeric(3e7))
  held <- future(list2env(list(x = numeric(3e7)))) # does not travel as a value by itself
  small <- future(sum(numeric(1e6) + 1))
  await(all(resolved(list(large, held, small))))
  has <- as.numeric(gsub("[^0-9]", "", grep("^VmSize", readLines("/proc/self/status"), value = TRUE))) * 1024
  withr::defer(limit("unlimited"))
  limit(sprintf("%.0f", has + 1e8))
  for (f in list(large, held)) {
    expect_error(value(f), "read by this session: cannot allocate", class = "KubernetesDataError")
  }
  expect_identical(value(small), 1e6)
  expect_identical(value(future(2)), 2)
  limit("unlimited")
  expect_identical(length(value(future(numeric(3e7)))), 30000000L)
})

test_that("availableCores() is the pod's own, and availableWorkers() are the release's", {
  skip_if_not(any(grepl("availableWorkers", readLines(file.path(R.home("library"), "base", "R", "Rprofile")))))
  own <- parallelly::availableCores()
  code <- "cat(parallelly::availableCores(), length(parallelly::availableWorkers()))"
  expect_identical(system2("Rscript", c("-e", shQuote(code)), stdout = TRUE), paste(own, 3L))
})
