# Acquires workers for a plan: takes free ones, asks Kubernetes for the rest, and waits with a progress line.

clock <- function() proc.time()[["elapsed"]]

# n connected workers. Free workers, and those about to reconnect after their last use, are taken without a request to
# Kubernetes; the rest is requested and awaited.
acquire_workers <- function(n, wait) {
  nodes <- list()
  on.exit(for (node in nodes) close_node(node))
  counts <- count_workers()
  # A worker that does not reconnect within 15 s is lost.
  if (counts$free >= n) nodes <- attach_nodes(n, wait = 15)
  if (length(nodes) < n) {
    n <- request_workers(n, wait, length(nodes))
    nodes <- c(nodes, attach_nodes(n - length(nodes), wait = 15))
  }
  if (length(nodes) == 0L) {
    stop(kubernetes_error(
      "Unavailable", "No worker could be connected: another R session may have taken them. Try again"
    ))
  }
  if (length(nodes) < n) {
    message(sprintf("%d of %d workers are connected; the others join as they become free", length(nodes), n))
  }
  acquired <- structure(nodes, wanted = n)
  nodes <- list()
  acquired
}

# Ask Kubernetes for n workers, of which `connected` belong to this plan, and wait until the others are free. Returns
# the number that the plan can have, which may be less than n. On failure the number of workers is set back.
request_workers <- function(n, wait, connected) {
  others <- count_workers()$others
  before <- NULL
  on.exit(scale_back(before))
  maximum <- setting("maxWorkers")
  if (!is.na(maximum) && n <= maximum && n + others > maximum) {
    n <- max(1L, connected, as.integer(maximum) - others)
    message(sprintf(
      "%d workers are in use by another R session, and this release allows %d: this plan gets %d",
      others, as.integer(maximum), n
    ))
  }
  before <- wanted_workers()
  if (!is.null(before)) {
    if (before < n + others) ask("scale", n + others) else before <- NULL
  }
  await_workers(n, wait, connected)
  before <- NULL
  n
}

# Number of workers that the release is set to have; NULL when this broker has no Kubernetes API: workers may still
# connect by themselves.
wanted_workers <- function() tryCatch(kubernetes_status()$wanted, KubernetesBrokerError = function(e) NULL)

# Set the number of workers back after an error or Ctrl-C, without a long wait for Kubernetes.
scale_back <- function(before) if (!is.null(before)) try(ask("scale", before, timeout = 2L), silent = TRUE)

# Wait until there are n workers: `connected` of this plan and the others free. A line reports the progress.
await_workers <- function(n, wait, connected = 0L) {
  line <- progress_line()
  on.exit(line$end())
  start <- clock()
  watch <- problem_watch()
  repeat {
    came <- connected + count_workers()$free
    if (came >= n) {
      return(invisible())
    }
    problem <- watch$check()
    if (nzchar(problem)) {
      stop(kubernetes_error("Unavailable", sprintf("%d workers were asked for, %d came. ", n, came), problem))
    }
    text <- watch$text()
    if (clock() - start > wait) {
      stop(kubernetes_error("Unavailable", sprintf(
        "%d workers were asked for, %d came within %.0f s. %s", n, came, wait, text
      )))
    }
    line$show(sprintf("%d workers: %d connected%s", n, came, if (nzchar(text)) paste0(", ", text) else ""))
    Sys.sleep(if (clock() - start < 2) 0.05 else 0.25)
  }
}

# Asks for the status once a second. check() returns a problem that waiting does not cure, text() what is waited for.
problem_watch <- function() {
  asked <- -Inf
  since <- NULL
  fewest <- Inf
  text <- ""
  list(
    text = function() text,
    check = function() {
      if (clock() - asked < 1) {
        return("")
      }
      asked <<- clock()
      status <- status_or_reason()
      text <<- status$text
      if (status$waiting < fewest) {
        # The cause is gone: Kubernetes keeps the event of a refusal for an hour after a quota was raised.
        fewest <<- status$waiting
        since <<- NULL
      }
      since <<- if (nzchar(status$problem)) c(since, clock())[1L]
      if (!is.null(since) && clock() - since > status$patience) status$problem else ""
    }
  )
}

status_or_reason <- function() {
  unknown <- function(text) list(text = text, problem = "", patience = 0, waiting = Inf)
  tryCatch(kubernetes_status(), KubernetesUnreachableError = function(e) {
    unknown(paste("the Kubernetes API does not answer:", conditionMessage(e)))
  }, KubernetesBrokerError = function(e) unknown(""))
}

# One line that is overwritten on a terminal; elsewhere it is printed again when it changes.
progress_line <- function() {
  shown <- ""
  terminal <- isatty(stderr())
  start <- clock()
  list(
    show = function(text) {
      if (text == shown || clock() - start < 1) {
        return()
      }
      shown <<- text
      if (terminal) cat("\r", formatC(text, width = -100L), sep = "", file = stderr()) else message(text)
    },
    end = function() if (terminal && nzchar(shown)) cat("\n", file = stderr())
  )
}
