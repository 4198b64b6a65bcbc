# Globals of a future: their size, and large ones that travel once.
use_bed()

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
  # A data.table has such a pointer, and changes in place.
  expect_false(is_large(structure(list(x = runif(1e5)), .internal.selfref = methods::new("externalptr"))))
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
  expect_length(f[["task_needs"]], max_references)
})

test_that("large objects that an R of a worker holds make room for each other, those used last stay", {
  plan(sequential)
  plan(kubernetes, workers = 1)
  held <- function(used, bound = NULL) {
    serving <- Filter(function(frame) exists("max_bytes", frame, inherits = FALSE), sys.frames())[[1L]]
    if (!is.null(bound)) assign("max_bytes", bound, serving)
    vapply(unname(serving$objects), function(object) object$value[1L], 0)
  }
  environment(held) <- globalenv()
  expect_identical(value(future(held(bound = 2e6))), numeric())
  large <- function(first, n = 1e5) c(first, runif(n))
  a <- large(1)
  b <- large(2)
  d <- large(3)
  e <- large(4, 1e6)
  holds <- function(f, expected) expect_identical(value(f), expected)
  holds(future(held(a)), 1)
  holds(future(held(b)), c(1, 2))
  holds(future(held(a)), c(2, 1))
  holds(future(held(d)), c(1, 3))
  holds(future(c(b[1], held())), c(2, 3, 2))
  holds(future(c(length(e), held())), c(1e6 + 1, 3, 2)) # larger than the bound: used, not held
})
