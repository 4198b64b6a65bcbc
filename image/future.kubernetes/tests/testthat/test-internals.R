# Each function of future that R/internals.R takes although it is not exported. When one is gone, its comment here says
# what to do.

test_that("getFutureData() makes what evalFuture() reads", {
  # Gone: see launchFuture.ClusterFutureBackend() in the new version for how it packs a future, and do the same in
  # task_data().
  expect_setequal(names(future_data(future(1, lazy = TRUE))), c("core", "capture", "context"))
})

test_that("evalFuture() evaluates that, and returns a FutureResult", {
  # Gone: worker.R has to call its successor, and evaluator_to_send() to send that.
  expect_s3_class(internal("evalFuture")(future_data(future(6 * 7, lazy = TRUE))), "FutureResult")
})

test_that("signalEarly() and signalImmediateConditions() take a future", {
  # Gone: leave the calls out; earlySignal and progress of finished futures are then signaled by value() alone.
  expect_true(is.function(internal("signalEarly")))
  expect_true(is.function(internal("signalImmediateConditions")))
})

test_that("assertOwner() refuses the future of another process", {
  # Gone: compare f[["owner"]] with the session's own id.
  f <- future(1, lazy = TRUE)
  expect_silent(assert_owner(f))
  f[["owner"]] <- "another"
  expect_error(assert_owner(f), class = "FutureError")
})
