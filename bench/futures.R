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
half <- runif(50e6 / 8)

seconds <- function(expression) unname(system.time(expression)[["elapsed"]])
middle <- function(times, one) median(vapply(seq_len(times), function(i) one(), 0))
map <- function(scheduling) {
  one <- function() seconds(future_lapply(seq_len(10L * n), function(i) Sys.sleep(1), future.scheduling = scheduling))
  sprintf("%.1f %%", 1000 / middle(3, one))
}
sized <- function(i, x) length(x)
pass <- function(chunks) future_lapply(seq_len(chunks), sized, half, future.scheduling = Inf)
ready <- function(k) invisible(value(lapply(seq_len(k), function(i) future(i)))) # each worker has loaded future

many <- function() {
  ready(n)
  c(
    sprintf("%.1f ms", middle(5, function() seconds(for (j in 1:50) value(future(1))) / 50 * 1000)),
    sprintf("%.2f s, again %.2f s", seconds(value(future(length(big)))), middle(3, function() {
      seconds(value(future(length(big))))
    })),
    map(1), map(10)
  )
}

four <- function() {
  ready(4L)
  first <- seconds(pass(4L))
  again <- middle(3, function() seconds(pass(4L)))
  chunks <- middle(3, function() seconds(pass(16L)))
  results <- middle(3, function() {
    seconds(value(lapply(1:8, function(i) future(numeric(50e6 / 8)))))
  })
  nothing <- system.time(future_lapply(1:10000, function(i) i, future.scheduling = Inf))
  c(
    sprintf("%.2f s, again %.2f s", first, again), sprintf("%.2f s", chunks), sprintf("%.0f MB/s", 400 / results),
    sprintf("%.0f a second", 10000 / nothing[["elapsed"]]), sprintf("%.1f ms", sum(nothing[1:2]) / 10)
  )
}

plan(kubernetes, workers = n)
ours <- many()
plan(kubernetes, workers = 4)
ours <- c(ours, four())
plan(cluster, workers = I(n))
stock <- many()
plan(cluster, workers = I(4))
stock <- c(stock, four())
what <- c(
  "one future, its value at once", "one future with a 100 MB global",
  sprintf("%d sleeps of 1 s on %d workers as %d chunks, of ideal", 10L * n, n, n),
  sprintf("%d sleeps of 1 s on %d workers as %d futures, of ideal", 10L * n, n, 10L * n),
  "a map of 4 on 4 workers with an argument of 50 MB", "the same map in 16 chunks",
  "8 results of 50 MB from 4 workers", "10,000 futures of nothing on 4 workers", "CPU of the session for each of these"
)
cat(sprintf("ROW\t%s\t%s\t%s\n", what, ours, stock), sep = "")
