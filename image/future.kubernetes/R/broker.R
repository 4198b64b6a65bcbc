# The broker of this pod: lines of words over a loopback connection, see image/broker/server.py.

run_folder <- function() Sys.getenv("FUTURE_KUBERNETES_RUN", "/run/future-kubernetes")

setting <- function(name) {
  folder <- Sys.getenv("FUTURE_KUBERNETES_CONFIG", "/etc/future-kubernetes/config")
  value <- tryCatch(suppressWarnings(as.numeric(readLines(file.path(folder, name), 1L, warn = FALSE))),
    error = function(e) NA_real_, warning = function(w) NA_real_
  )
  if (length(value) == 1L && !is.na(value)) value else NA_real_
}

dial <- function(timeout) {
  port <- tryCatch(suppressWarnings(readLines(file.path(run_folder(), "broker.port"), 1L)), error = function(e) NULL)
  if (is.null(port)) {
    stop(kubernetes_error(
      "Broker", "There is no broker here: ", run_folder(), "/broker.port does not exist. ",
      "plan(kubernetes) works in R sessions of a release's scheduler pod; elsewhere use plan(multisession)"
    ))
  }
  con <- tryCatch(
    suppressWarnings(socketConnection("127.0.0.1",
      port = as.integer(port), blocking = TRUE, open = "a+b", timeout = timeout, options = "no-delay"
    )),
    error = identity
  )
  if (inherits(con, "error")) {
    stop(kubernetes_error(
      "Broker", "The broker of this pod does not answer. It is restarted by itself within seconds: try again; ",
      "its messages are in 'kubectl logs' of this pod"
    ))
  }
  con
}

# One request and its answer, without the leading "ok".
ask <- function(..., timeout = 30L) {
  con <- dial(timeout)
  on.exit(close(con))
  writeLines(paste(...), con)
  answer <- readLines(con, 1L)
  if (length(answer) == 0L) {
    stop(kubernetes_error("Broker", "The broker closed the connection; it may be restarting: try again"))
  }
  if (startsWith(answer, "error ")) stop(answer_error(sub("^error ", "", answer)))
  sub("^ok ?", "", answer)
}

# One request whose answer is not waited for: it can take seconds where the Kubernetes API does not answer.
tell <- function(...) {
  con <- dial(5L)
  on.exit(close(con))
  writeLines(paste(...), con)
}

# How many workers are free, in use by this process, and in use by others.
count_workers <- function() {
  n <- as.integer(strsplit(ask("count", Sys.getpid()), " ", fixed = TRUE)[[1]])
  list(free = n[1], mine = n[2], others = n[3])
}

# What the Kubernetes API says of the workers.
kubernetes_status <- function() {
  fields <- strsplit(ask("status"), "\t", fixed = TRUE)[[1]]
  n <- as.integer(strsplit(fields[1], " ", fixed = TRUE)[[1]])
  list(
    wanted = n[1], connected = n[2], waiting = n[4], text = if (length(fields) > 1L) fields[2] else "",
    problem = if (length(fields) > 2L) fields[3] else ""
  )
}
