#' Conditions that this package signals
#'
#' Each error has the class `KubernetesError` and a class of its kind, so that [tryCatch()] can handle exactly one kind.
#' The session stays usable after each of them.
#'
#' \itemize{
#' \item `KubernetesWorkersError`: the number of workers is no valid number: 0, -1, `NA`, `"four"`.
#' \item `KubernetesMaximumError`: more workers than the release allows (its setting `maxWorkers`).
#' \item `KubernetesUnavailableError`: the requested workers cannot start, or did not start in time; the message gives
#' the reason, from the conditions and events of their pods. On another machine also: there is no such release any more.
#' \item `KubernetesPermissionError`: the scheduler's service account may not scale workers.
#' \item `KubernetesUnreachableError`: the Kubernetes API does not answer.
#' \item `KubernetesBrokerError`: there is no broker: this R does not run in a scheduler pod, or the broker is
#' restarting.
#' \item `KubernetesVersionError`: this package and the broker are of different versions; the message gives the fix.
#' \item `KubernetesPageError`: [dashboard()] has no page to show here, or its `height` is no number of pixels.
#' \item `KubernetesReportError`: [report()] has no future to report on, or an argument that it cannot use.
#' \item `KubernetesPackageError`: a future needs a package that its worker does not have, or cannot load: it is for
#' another version of R or another platform, or needs a library of the system that the image lacks.
#' \item `KubernetesClusterError`: `cluster` of [kubernetes()] is no stack or release that this session can look up.
#' \item `KubernetesGlobalsError`: a future needs more data than `maxSizeOfObjects` of the plan allows, which is the
#' option `future.globals.maxSize` where it is set.
#' \item `KubernetesDataError`: a future's data or its result could not be serialized, read, held or kept; the message
#' gives R's own reason. It is not run again, and its worker goes on.
#' \item `KubernetesReferenceError`: a future failed because it used a connection or an external pointer of the session,
#' as of an xml2 document or a database. The message names the global that has it. With
#' `options(future.globals.onReference = "error")` such a future is refused when it is made.
#' \item `KubernetesSetupError`: the `setup` of the plan failed on a worker, or is no code that workers could run.
#' \item `KubernetesSessionError`: the plan belongs to another R process: this one is a forked child of it or a copy.
#' \item `KubernetesWorkerLostError`: a future failed because its worker was lost more often than `retries`. It is also
#' a [future::FutureInterruptError]. Its fields `pods` and `reasons` hold the lost pods and how each ended.
#' }
#'
#' @examples
#' n <- tryCatch(
#'   scale_workers("four"),
#'   KubernetesWorkersError = function(e) {
#'     message(conditionMessage(e))
#'     NA
#'   }
#' )
#' @name kubernetes_conditions
NULL

kubernetes_error <- function(kind, ..., class = character()) {
  structure(
    class = c(paste0("Kubernetes", kind, "Error"), class, "KubernetesError", "error", "condition"),
    list(message = paste0(...), call = NULL)
  )
}

# The condition for an error that the broker answers: its first word is the kind.
answer_error <- function(text) {
  word <- sub(" .*", "", text)
  kinds <- c(
    permission = "Permission", unreachable = "Unreachable", outside = "Broker", refused = "Unavailable",
    `above-maximum` = "Maximum", protocol = "Version"
  )
  if (!word %in% names(kinds)) {
    return(kubernetes_error("Unavailable", text))
  }
  fix <- if (word == "above-maximum") {
    ". Ask for fewer, or raise 'maxWorkers' of the stack and run 'pulumi up'"
  } else {
    ""
  }
  kubernetes_error(kinds[[word]], sub("^[^ ]+ ", "", text), fix)
}

# The value of `workers` as integers: one whole number of at least `min`, or two in ascending order.
check_workers <- function(workers, min = 1L) {
  good <- is.numeric(workers) && length(workers) %in% 1:2 && !anyNA(workers) && all(is.finite(workers)) &&
    all(workers == round(workers)) && all(workers >= min) && !is.unsorted(workers)
  if (!good) {
    stop(kubernetes_error(
      "Workers", "The number of workers is ", paste(deparse(workers), collapse = ""),
      "; it is a whole number of at least ", min, ", as in workers = 4, or a minimum and a maximum, ",
      "as in workers = c(2, 40)"
    ))
  }
  as.integer(pmin(workers, .Machine$integer.max))
}
