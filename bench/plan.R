# plan() and futures side by side, in one R session of a scheduler pod: `Rscript bench/plan.R [WORKERS] [REPEATS]`.
#
#   kubernetes   plan(kubernetes)
#   article      plan(cluster, manual = TRUE, quiet = TRUE), served by the rendezvous
#   stock        plan(cluster) on as many R processes of this machine, by parallelly: no network, no pods
#
# Prints one line of figures each. What stands here is time only: CPU of idle workers is measured by bench/idle.py.
arguments <- as.integer(commandArgs(trailingOnly = TRUE))
n <- if (length(arguments) >= 1L) arguments[1] else 40L
repeats <- if (length(arguments) >= 2L) arguments[2] else 3L
suppressMessages({
  library(future.kubernetes)
  library(future.apply)
})
options(future.globals.maxSize = Inf)

seconds <- function(expression) unname(system.time(expression)[["elapsed"]])
row <- function(plan_name, what, values, unit) {
  cat(sprintf("%-11s %-42s median %9.3f  least %9.3f  most %9.3f %s\n", plan_name, what, median(values), min(values), max(values), unit))
}

# Workers start a fresh R after each use: what is measured is plan() on workers that wait.
until_waiting <- function() {
  plan(sequential)
  for (i in 1:600) {
    if (sum(workers()$state == "idle") >= n) {
      Sys.sleep(2)
      return(invisible())
    }
    Sys.sleep(0.2)
  }
  stop("fewer than ", n, " workers wait: scale_workers(", n, ") first")
}

plans <- list(
  kubernetes = function() plan(kubernetes, workers = n),
  article = function() plan(cluster, workers = I(n), manual = TRUE, quiet = TRUE),
  stock = function() plan(cluster, workers = I(n))
)
big <- runif(100e6 / 8)
for (name in names(plans)) {
  connect <- vapply(seq_len(repeats), function(i) {
    until_waiting()
    seconds(plans[[name]]())
  }, 0)
  row(name, sprintf("plan() on %d workers", n), connect, "s")
  invisible(value(lapply(seq_len(n), function(i) future(i)))) # each worker has loaded future
  one <- vapply(seq_len(repeats), function(i) seconds(for (j in 1:50) value(future(1))) / 50 * 1000, 0)
  row(name, "one future, its value at once", one, "ms")
  sent <- vapply(seq_len(repeats), function(i) seconds(value(future(length(big)))), 0)
  row(name, "one future with a 100 MB global", sent, "s")
  for (scheduling in c(1, 10)) {
    map <- seconds(future_lapply(seq_len(10L * n), function(i) Sys.sleep(1), future.scheduling = scheduling))
    row(name, sprintf("%d sleeps of 1 s, future.scheduling = %d", 10L * n, scheduling), 1000 / map, "% of ideal")
  }
}
plan(sequential)
