# The article's own computation, run in the scheduler pod as its user would run it: `Rscript - LENGTH WORKERS`.
# Ends with one line of JSON: the pods that took part, and the seconds that one worker and all of them needed.
arguments <- commandArgs(trailingOnly = TRUE)
vector_length <- as.numeric(arguments[1])
expected <- as.integer(arguments[2])
suppressPackageStartupMessages(library(future.apply))

seconds <- function(expression) unname(system.time(expression)["elapsed"])
compute <- function() {
  future_sapply(1:40, function(i, n) mean(rnorm(n)), n = vector_length, future.seed = TRUE)
}

# After a restart of the scheduler its workers are back within seconds, and an R session, or the idle rule, may have
# given some back; what is measured is plan() alone.
free <- parallelly::availableCores()
if (is.na(free) || free < expected) future.kubernetes::scale_workers(expected)
connect <- seconds(plan(cluster, manual = TRUE, quiet = TRUE))
connected <- nbrOfWorkers()
if (connected < expected) {
  stop(sprintf(
    "%d of %d workers are free for this computation; another R session may hold the rest: plan(sequential) there gives them back",
    connected, expected
  ), call. = FALSE)
}
pods <- future_sapply(seq_len(connected), function(i) Sys.info()[["nodename"]])
invisible(future_sapply(seq_len(connected), function(i) rnorm(1), future.seed = TRUE)) # each worker has loaded its packages
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
  "\nPROOF {\"pods\": [%s], \"connectSeconds\": %s, \"oneWorkerSeconds\": %s, \"allWorkersSeconds\": %s, \"mean\": %s}\n",
  paste0("\"", pods, "\"", collapse = ", "), number(connect), number(one_worker), number(all_workers), number(mean(output))
))
