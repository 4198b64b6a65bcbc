# One argument of 100 MB to each of N workers, `Rscript bench/large.R [N]` in a session of a release that has them:
# seconds from the call of future_lapply() until all have begun, the first time and again.
arguments <- as.integer(commandArgs(trailingOnly = TRUE))
n <- if (length(arguments)) arguments[1] else 40L
suppressMessages({
  library(future.kubernetes)
  library(future.apply)
})
plan(kubernetes, workers = n)
invisible(value(lapply(seq_len(n), function(i) future(i)))) # each worker has loaded future
big <- runif(100e6 / 8)
begun <- function() {
  start <- as.numeric(Sys.time())
  began <- future_lapply(seq_len(n), function(i, x) c(as.numeric(Sys.time()), x[1]), big)
  stopifnot(vapply(began, function(one) one[2] == big[1], NA))
  max(vapply(began, `[`, 0, 1)) - start
}
cat(sprintf("%.2f %.2f\n", begun(), begun()))
