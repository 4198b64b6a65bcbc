#' Workers that are connected
#'
#' @return A data frame with a row for each worker that is connected to the broker of this release: `pod`, `node`,
#'   `state` (idle, busy, or draining while its pod is being deleted and it finishes its future), `since` when it is in
#'   that state, `tasks` (futures that the current plan of this session has sent to it), `restarts` (how often its R was
#'   lost in use) and `session` (the process that uses it, `NA` when none does). It prints with a summary.
#' @examples
#' if (file.exists("/run/future-kubernetes/broker.port")) workers()
#' @export
workers <- function() {
  rows <- jsonlite::fromJSON(ask("workers"), simplifyDataFrame = TRUE)
  if (length(rows) == 0L) {
    rows <- data.frame(
      pod = character(), node = character(), state = character(), since = numeric(), losses = integer(),
      session = integer()
    )
  }
  backend <- current_backend()
  tasks <- if (is.null(backend)) integer() else backend[["tasks"]]
  tasks <- unname(tasks[rows$pod])
  tasks[is.na(tasks)] <- 0L
  structure(
    data.frame(
      pod = rows$pod, node = rows$node, state = rows$state, since = as.POSIXct(rows$since, origin = "1970-01-01"),
      tasks = as.integer(tasks), restarts = as.integer(rows$losses),
      session = ifelse(rows$session == 0L, NA_integer_, as.integer(rows$session))
    ),
    class = c("kubernetes_workers", "data.frame")
  )
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
  invisible(x)
}

#' Set the number of workers
#'
#' Sets how many workers the release has. New ones join the current `plan(kubernetes)` of this session when they start;
#' with a smaller number, idle workers are removed and those that run a future stay until it is done.
#'
#' @param n number of workers; 0 removes all that are not in use.
#' @param wait if `TRUE`, return only when they are connected, with a progress line.
#' @param timeout maximum number of seconds to wait.
#' @return The number of workers that the release is now set to have, invisibly: more than `n` when more are in use.
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
  if (!is.null(backend)) cancel_release(backend)
  before <- wanted_workers()
  plan_before <- if (!is.null(backend)) mget(c("target", "range"), envir = backend)
  on.exit({
    scale_back(before)
    for (name in names(plan_before)) backend[[name]] <- plan_before[[name]]
  })
  if (!is.null(backend)) {
    free <- setdiff(seq_along(backend[["workers"]]), used_nodes(backend))
    surplus <- length(backend[["workers"]]) - n
    if (surplus > 0L) drop_nodes(backend, utils::head(free, surplus))
    backend[["target"]] <- max(1L, n)
    backend[["range"]] <- range(min(backend[["range"]][1L], backend[["target"]]), backend[["target"]])
    if (diff(backend[["range"]]) > 0L) backend[["range"]] <- rep(backend[["target"]], 2L)
  }
  now <- as.integer(ask("scale", n))
  counts <- count_workers()
  if (wait && counts$free + counts$mine + counts$others < n) {
    await_workers(n, timeout, counts$mine + counts$others)
  }
  before <- plan_before <- NULL
  if (!is.null(backend)) {
    backend[["ticked"]] <- -Inf
    tick(backend)
  }
  invisible(now)
}

# The backend of the current plan if it is one of this package, else NULL.
current_backend <- function() {
  backend <- attr(future::plan("next"), "backend", exact = TRUE)
  if (inherits(backend, "KubernetesFutureBackend")) backend
}
