# The article's computation, run in the scheduler pod as a user runs it: `Rscript - LENGTH WORKERS SECONDS`.
# SECONDS: for missing workers to start.
# The last line of its output is JSON: the pods of the workers, and the seconds on one worker and on all of them.
arguments <- commandArgs(trailingOnly = TRUE)
vector_length <- as.numeric(arguments[1])
expected <- as.integer(arguments[2])
wait <- as.numeric(arguments[3])
suppressPackageStartupMessages(library(future.apply))

seconds <- function(expression) unname(system.time(expression)["elapsed"])
compute <- function() {
  future_sapply(1:40, function(i, n) mean(rnorm(n)), n = vector_length, future.seed = TRUE)
}

# Start missing workers first (after a restart, or scaled down while idle), so that only plan() itself is measured.
if (length(parallelly::availableWorkers()) < expected) {
  future.kubernetes::scale_workers(expected, timeout = wait)
}
connect <- seconds(plan(cluster, manual = TRUE, quiet = TRUE))
connected <- nbrOfWorkers()
if (connected < expected) {
  stop(sprintf(
    "%d of %d workers are free for this computation; another R session may use the rest: plan(sequential) there releases them",
    connected, expected
  ), call. = FALSE)
}
pods <- future_sapply(seq_len(connected), function(i) Sys.info()[["nodename"]])
invisible(future_sapply(seq_len(connected), function(i) rnorm(1), future.seed = TRUE)) # loads the packages on each worker
set.seed(42)
all_workers <- seconds(output <- compute())
plan(cluster, workers = I(1), manual = TRUE, quiet = TRUE)
invisible(value(future(rnorm(1), seed = TRUE)))
set.seed(42)
one_worker <- seconds(again <- compute())
plan(sequential)

if (!identical(output, again)) stop("the same seed gave other numbers on one worker than on all", call. = FALSE)
number <- function(x) format(x, digits = 15, scientific = FALSE)
cat(sprintf(
  "\nSMOKE_TEST {\"pods\": [%s], \"connectSeconds\": %s, \"oneWorkerSeconds\": %s, \"allWorkersSeconds\": %s, \"mean\": %s}\n",
  paste0("\"", pods, "\"", collapse = ", "), number(connect), number(one_worker), number(all_workers), number(mean(output))
))
