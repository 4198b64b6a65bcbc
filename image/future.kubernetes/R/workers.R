#' Workers that are connected
#'
#' @return A data frame with a row for each worker that is connected to the broker of this release: `pod`, `node`,
#'   `state` (idle, busy, or draining while its pod is being deleted and it finishes its future), `since` when it is in
#'   that state, `tasks` (futures that it has been given), `restarts` (how often its R was lost in use), `session` (the
#'   process that it works for, `NA` when there is none), `label` of the future that it runs, and `memory` (MiB) and
#'   `cpu` (CPUs) of its container as it said last, which it does every ten seconds while it runs something. It prints
#'   with a summary, and with the memory that the scheduler's pod uses of its limit, shared by its R sessions.
#' @examples
#' if (file.exists("/run/future-kubernetes/broker.port")) workers()
#' @export
workers <- function() {
  rows <- jsonlite::fromJSON(ask("workers"), simplifyDataFrame = TRUE)
  if (length(rows) == 0L) {
    rows <- data.frame(
      pod = character(), node = character(), state = character(), since = numeric(), uses = integer(),
      losses = integer(), session = integer(), label = character(), memory = integer(), cpu = numeric()
    )
  }
  structure(
    data.frame(
      pod = rows$pod, node = rows$node, state = rows$state, since = as.POSIXct(rows$since, origin = "1970-01-01"),
      tasks = as.integer(rows$uses), restarts = as.integer(rows$losses),
      session = ifelse(rows$session == 0L, NA_integer_, as.integer(rows$session)), label = as.character(rows$label),
      memory = as.integer(rows$memory), cpu = as.numeric(rows$cpu)
    ),
    class = c("kubernetes_workers", "data.frame"), scheduler = scheduler_memory()
  )
}

# Memory of the scheduler's pod and its limit, in MiB, NA for what is not known.
scheduler_memory <- function() {
  words <- tryCatch(strsplit(ask("memory"), " ", fixed = TRUE)[[1L]], KubernetesError = function(e) c("-", "-"))
  words[words == "-"] <- NA
  c(memory = as.integer(words[1L]), limit = as.integer(words[2L]))
}

#' @export
print.kubernetes_workers <- function(x, ...) {
  if (!all(c("state", "since") %in% names(x))) {
    return(NextMethod())
  }
  counts <- table(x$state)
  cat(sprintf(
    ngettext(nrow(x), "%d worker%s\n", "%d workers%s\n"), nrow(x),
    if (nrow(x) > 0L) paste0(": ", paste(counts, names(counts), collapse = ", ")) else ""
  ))
  if (nrow(x) > 0L) {
    x$since <- format(x$since, "%H:%M:%S")
    print.data.frame(x, row.names = FALSE, ...)
  }
  pod <- attr(x, "scheduler")
  if (!is.null(pod) && !is.na(pod[["memory"]])) {
    limit <- if (is.na(pod[["limit"]])) "" else sprintf(" of %d", pod[["limit"]])
    cat(sprintf("The scheduler's pod uses %d%s MiB of memory\n", pod[["memory"]], limit))
  }
  invisible(x)
}

#' Set the number of workers
#'
#' Sets how many workers the release has, and the current `plan(kubernetes)` of this session with it. With a smaller
#' number idle workers are removed, and those that run a future stay until it is done.
#'
#' @param n number of workers; 0 removes all that are not in use.
#' @param wait if `TRUE`, return only when they are connected, with a progress line.
#' @param timeout maximum number of seconds to wait.
#' @return The number of workers that the release is now set to have, invisibly: more than `n` when more are in use or
#'   wanted by the plans of other sessions.
#' @examples
#' if (file.exists("/run/future-kubernetes/broker.port")) {
#'   scale_workers(2)
#'   workers()
#' }
#' @export
scale_workers <- function(n, wait = TRUE, timeout = 600) {
  n <- check_workers(n, min = 0L)
  if (length(n) != 1L) {
    stop(kubernetes_error("Workers", "scale_workers() takes one number, as in scale_workers(4)"))
  }
  backend <- current_backend()
  before <- tryCatch(kubernetes_status()$wanted, KubernetesBrokerError = function(e) NULL)
  range_before <- if (!is.null(backend)) backend[["range"]]
  on.exit({
    # After an error or Ctrl-C, without a long wait for Kubernetes.
    if (!is.null(before)) try(ask("scale", before, session_id(), timeout = 2L), silent = TRUE)
    if (!is.null(range_before)) try(set_range(backend, range_before), silent = TRUE)
  })
  now <- as.integer(ask("scale", n, session_id()))
  if (!is.null(backend)) set_range(backend, rep(max(1L, n), 2L), tell = n > 0L)
  if (wait) await_workers(function() list(connected = connected_workers()$connected, wanted = n), timeout)
  before <- range_before <- NULL
  invisible(now)
}

set_range <- function(backend, range, tell = TRUE) {
  backend[["range"]] <- backend[["stream"]]$range <- range
  if (tell) say(usable_stream(backend[["stream"]]), "range", range)
}

# The backend of the current plan if it is one of this package, else NULL.
current_backend <- function() {
  backend <- attr(future::plan("next"), "backend", exact = TRUE)
  if (inherits(backend, "KubernetesFutureBackend")) backend
}
