#' Conditions that this package signals
#'
#' Each error has the class `KubernetesError` and one that says what kind it is, so that code can
#' [tryCatch()] exactly what it can handle. The session stays usable after each of them.
#'
#' * `KubernetesWorkersError`: the number of workers is not one: 0, -1, `NA`, `"four"`.
#' * `KubernetesMaximumError`: more workers than the release allows (its setting `maxWorkers`).
#' * `KubernetesUnavailableError`: the workers that were asked for will not come, or did not in time; the message
#'   says why, from the conditions and events of their pods.
#' * `KubernetesPermissionError`: the scheduler's service account may not scale workers.
#' * `KubernetesUnreachableError`: the Kubernetes API does not answer.
#' * `KubernetesBrokerError`: there is no broker: this R does not run in a scheduler pod, or it restarts.
#' * `KubernetesPackageError`: a future needs a package that its worker does not have.
#' * `KubernetesGlobalsError`: a future needs more data than `maxSizeOfObjects` of the plan allows, which is the option
#'   `future.globals.maxSize` where it is set.
#' * `KubernetesWorkerLostError`: a future was given up after its worker was lost more often than `retries`; it is a
#'   [future::FutureInterruptError] too. Its fields `pods` and `reasons` tell where and how.
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

# The kinds of error that the broker answers with, and the class of each.
answer_error <- function(text) {
  word <- sub(" .*", "", text)
  kinds <- c(
    permission = "Permission", unreachable = "Unreachable", outside = "Broker", refused = "Unavailable",
    `above-maximum` = "Maximum"
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

# One whole positive number, or two in order: what `workers` may be.
check_workers <- function(workers, least = 1L) {
  good <- is.numeric(workers) && length(workers) %in% 1:2 && !anyNA(workers) && all(is.finite(workers)) &&
    all(workers == round(workers)) && all(workers >= least) && !is.unsorted(workers)
  if (!good) {
    stop(kubernetes_error(
      "Workers", "The number of workers is ", paste(deparse(workers), collapse = ""), "; it is a whole number of at least ",
      least, ", as in workers = 4, or a smallest and a largest number, as in workers = c(2, 40)"
    ))
  }
  as.integer(pmin(workers, .Machine$integer.max))
}
