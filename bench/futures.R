# Futures side by side, in one R session of a scheduler pod whose release has enough workers: `Rscript bench/futures.R [N]`.
# Ours is plan(kubernetes), stock plan(cluster) on as many R processes of this pod: no network, no TLS, no pods.
# Prints lines of ROW, what, ours, stock, with tabs between.
arguments <- as.integer(commandArgs(trailingOnly = TRUE))
n <- if (length(arguments)) arguments[1] else 40L
suppressMessages({
  library(future.kubernetes)
  library(future.apply)
})
options(future.globals.maxSize = Inf)
big <- runif(100e6 / 8)

seconds <- function(expression) unname(system.time(expression)[["elapsed"]])
middle <- function(times, one) median(vapply(seq_len(times), function(i) one(), 0))
map <- function(scheduling) {
  one <- function() seconds(future_lapply(seq_len(10L * n), function(i) Sys.sleep(1), future.scheduling = scheduling))
  sprintf("%.1f %%", 1000 / middle(3, one))
}

measured <- function() {
  invisible(value(lapply(seq_len(n), function(i) future(i)))) # each worker has loaded future
  figures <- c(
    sprintf("%.1f ms", middle(5, function() seconds(for (j in 1:50) value(future(1))) / 50 * 1000)),
    sprintf("%.2f s", middle(3, function() seconds(value(future(length(big)))))),
    map(1), map(10)
  )
  plan(sequential)
  figures
}
plan(kubernetes, workers = n)
ours <- measured()
plan(cluster, workers = I(n))
stock <- measured()
what <- c(
  "one future, its value at once", "one future with a 100 MB global",
  sprintf("%d sleeps of 1 s on %d workers as %d chunks, of ideal", 10L * n, n, n),
  sprintf("%d sleeps of 1 s on %d workers as %d futures, of ideal", 10L * n, n, 10L * n)
)
cat(sprintf("ROW\t%s\t%s\t%s\n", what, ours, stock), sep = "")
