# A future of this backend: launched as a task, resolved by what the broker sends.

heard_seconds <- 0.005

#' @exportS3Method future::resolved
resolved.KubernetesFuture <- function(x, ...) {
  if (x[["state"]] == "created") {
    future::run(x)
    return(FALSE)
  }
  if (is.null(x[["result"]])) {
    stream <- stream_of(x)
    # Map functions look at each of hundreds of futures, a hundred times a second: the first look takes in what has come
    # for all of them.
    if (is.null(stream) || clock() - stream$heard >= heard_seconds) {
      assert_owner(x)
      if (is.null(stream)) {
        return(FALSE)
      }
      hear(stream)
    }
    if (isTRUE(x[["ready"]]) && isTRUE(x[["earlySignal"]])) fetch(stream, x)
  }
  done <- !is.null(x[["result"]]) || isTRUE(x[["ready"]])
  if (done) signal_early(x)
  done
}

#' @exportS3Method future::result
result.KubernetesFuture <- function(future, ...) {
  if (is.null(future[["result"]])) {
    if (future[["state"]] == "created") future <- future::run(future)
    assert_owner(future)
    await_result(future)
  }
  result <- future[["result"]]
  if (inherits(result, "FutureError")) stop(result)
  result
}

# Wait for the future's result, with a progress line once workers are waited for.
await_result <- function(future) {
  watch <- NULL
  repeat {
    stream <- stream_of(future)
    if (is.null(stream) || is.null(stream$futures[[as.character(future[["task"]])]])) {
      if (is.null(future[["result"]])) {
        end_without_stream(future)
      }
      return(invisible())
    }
    if (isTRUE(future[["ready"]])) {
      fetch(stream, future)
    } else if (!hear(stream, 1)) {
      # Nothing has come for a second: say what is waited for, or that waiting is of no use.
      if (is.null(watch)) {
        watch <- worker_watch(future[["backend"]][["wait"]])
        on.exit(watch$end())
      }
      watch$look()
    }
    if (!is.null(future[["result"]])) {
      return(invisible())
    }
  }
}

fetch <- function(stream, future) {
  say(usable_stream(stream), "fetch", future[["task"]])
  while (is.null(future[["result"]])) hear(stream, 1)
}

stream_of <- function(future) {
  stream <- future[["backend"]][["stream"]]
  if (!is.null(stream) && !is.null(stream$con)) stream
}

end_without_stream <- function(future) {
  future[["state"]] <- "canceled"
  future[["result"]] <- future::FutureCanceledError(
    sprintf("Future %s has no result: it was canceled, or its plan has ended", label_of(future)), future = future
  )
}

# The data of a future that a worker evaluates.
task_data <- function(future) {
  data <- future_data(future)
  # Only its names are of use on a worker: future also sends the environments in which the globals were found, with all
  # that is in them (futureverse/future#475).
  where <- attr(data[["core"]][["globals"]], "where")
  if (length(where) > 0L) attr(data[["core"]][["globals"]], "where") <- lapply(where, without_content)
  classes <- attr(future[["conditions"]], "immediateConditionClasses", exact = TRUE)
  if (!is.null(future[["conditions"]]) && (is.null(classes) || length(classes) > 0L)) {
    data[["capture"]][["immediateConditionHandlers"]] <- list(immediateCondition = signal_from_worker)
  }
  data[["kubernetes"]] <- list(gc = isTRUE(future[["gc"]]), evaluate = evaluator_to_send())
  data
}

without_content <- function(envir) {
  if (!is.environment(envir) || identical(envir, globalenv()) || identical(envir, emptyenv())) envir else emptyenv()
}

# Runs on the worker, whose worker.R has set the option.
signal_from_worker <- function(condition) getOption("future.kubernetes.condition")(condition)
environment(signal_from_worker) <- baseenv()

take_result <- function(stream, future, result, values = NULL) {
  result <- tryCatch(with_values(stream, result, values), error = identity)
  if (inherits(result, "FutureResult")) {
    result[["conditions"]] <- lapply(result[["conditions"]], as_package_error)
    result[["conditions"]] <- lapply(result[["conditions"]], as_reference_error, future[["globals"]])
    tell_of_files(stream, future, result)
    attr(result, "kubernetes_wrote") <- NULL
    end_future(stream, future, result)
    signal_immediate(future)
    return(invisible())
  }
  if (inherits(result, "FutureLaunchError")) {
    missing <- grepl(package_words, conditionMessage(result))
    end_future(stream, future, if (missing) package_error(future, result) else result)
    return(invisible())
  }
  text <- if (inherits(result, "error")) conditionMessage(result) else paste("it is a", class(result)[1L])
  end_future(stream, future, data_error(future, "read by this session", text))
}

# A condition that is to be seen at once, such as progress. A task that runs again sends those of its first attempt
# again: they are signaled once.
take_condition <- function(future, attempt, body) {
  condition <- tryCatch(unserialize(body), error = identity)
  seen <- future[["conditions_seen"]]
  if (!identical(seen$attempt, attempt)) seen <- list(attempt = attempt, here = 0L, maximum = max(0L, seen$maximum))
  seen$here <- seen$here + 1L
  again <- seen$here <= seen$maximum
  seen$maximum <- max(seen$maximum, seen$here)
  future[["conditions_seen"]] <- seen
  if (again || !inherits(condition, "condition")) {
    return(invisible())
  }
  future[[".signaledConditions"]] <- c(
    future[[".signaledConditions"]], list(list(condition = condition, signaled = 1L))
  )
  if (inherits(condition, "message")) {
    message(condition)
  } else if (inherits(condition, "warning")) {
    warning(condition)
  } else {
    signalCondition(condition)
  }
}

label_of <- function(future) if (is.null(future[["label"]])) "<unnamed>" else future[["label"]]

count_future <- function(future, result) {
  backend <- future[["backend"]]
  counters <- backend[["counters"]]
  counters["finished"] <- counters["finished"] + 1L
  backend[["counters"]] <- counters
  # In seconds, without the arithmetic of times, which takes a tenth of a millisecond.
  took <- unclass(result[["finished"]]) - unclass(result[["started"]])
  if (length(took) == 1L) backend[["runtime"]] <- backend[["runtime"]] + as.numeric(took)
}

# Errors.

reason_words <- c(
  unsent = "sent by its worker", unkept = "kept", refused = "taken by the scheduler's pod"
)

# The future's data or its result could not be handled; nothing is wrong with its worker.
data_error <- function(future, what, reason) {
  text <- sprintf("The data of future %s could not be %s: %s", label_of(future), what, reason)
  error <- future::FutureError(text, future = future)
  class(error) <- unique(c("KubernetesDataError", "KubernetesError", class(error)))
  error
}

unread_error <- function(future, reason) {
  error <- data_error(future, "read by its worker", reason)
  if (grepl(package_words, reason)) package_error(future, error) else error
}

# library() keeps the text of an error and not its class.
as_package_error <- function(captured) {
  condition <- captured[["condition"]]
  if (inherits(condition, "error") && !inherits(condition, "KubernetesPackageError") &&
        grepl(session_package_words, conditionMessage(condition))) {
    class(captured[["condition"]]) <- c("KubernetesPackageError", "KubernetesError", class(condition))
  }
  captured
}

# A pointer into a process's memory, or a connection, arrives on a worker as one that is of no use there. Which error
# follows is up to the function that uses it: R's own, or a package's. Looked for only after such an error.
as_reference_error <- function(captured, globals) {
  condition <- captured[["condition"]]
  if (!inherits(condition, "error") || !grepl(reference_words, conditionMessage(condition), ignore.case = TRUE)) {
    return(captured)
  }
  for (name in names(globals)) {
    found <- tryCatch(reference_in(globals[[name]]), error = function(e) NULL) # such as of a promise that fails
    if (is.null(found)) next
    where <- if (name %in% c("...", "future.call.arguments")) {
      "An argument of this future ('...')"
    } else if (startsWith(name, "...")) {
      "The data that this map goes over"
    } else {
      sprintf("The global '%s' of this future", name)
    }
    captured[["condition"]][["message"]] <- sprintf(paste(
      "%s. %s has %s, which works only in the R process that made it.",
      "Make it in the future itself, as by opening the file there, or send what it is made from"
    ), sub("[.]$", "", conditionMessage(condition)), where, found)
    class(captured[["condition"]]) <- c("KubernetesReferenceError", "KubernetesError", class(condition))
    break
  }
  captured
}

reference_words <- "external pointer|external ?ptr|null pointer|symbol address|invalid connection"

# "a connection" or "an external pointer" if there is one in a value, with what a function or an environment holds; else
# NULL. Values of very many parts are not looked through.
reference_in <- function(x) {
  state <- new.env()
  state$looked <- 0L
  state$seen <- list(emptyenv(), baseenv(), globalenv())
  look <- function(x) {
    state$looked <- state$looked + 1L
    if (state$looked > 10000L) {
      return(NULL)
    }
    if (inherits(x, "connection")) {
      return("a connection")
    }
    if (typeof(x) == "externalptr") {
      return("an external pointer")
    }
    parts <- attributes(x)
    if (is.list(x)) parts <- c(parts, unclass(x))
    if (typeof(x) == "closure") parts <- c(parts, environment(x))
    if (is.environment(x) && !isNamespace(x) && !any(vapply(state$seen, identical, NA, x))) {
      state$seen <- c(state$seen, x)
      fixed <- Filter(function(name) !bindingIsActive(name, x), ls(x, all.names = TRUE))
      parts <- c(parts, mget(fixed, envir = x))
    }
    for (part in parts) if (!is.null(found <- look(part))) {
      return(found)
    }
  }
  look(x)
}

# Words of R and of image/worker/packages.R on a package that a worker lacks or cannot load.
session_package_words <- "of the session (did not reach|cannot be loaded on) this worker"
package_words <- paste0("there is no package called|", session_package_words)

# future itself mentions a missing package only among "possible other reasons" of a failed launch.
package_error <- function(future, error) {
  text <- conditionMessage(error)
  error[["message"]] <- if (grepl(session_package_words, text)) {
    # It has its own fix.
    sprintf("Future %s cannot run on its worker: %s", label_of(future), sub(".*(The package '[^']+' of the session )",
      "\\1", text))
  } else {
    sprintf(paste(
      "Future %s cannot run on its worker: %s. Workers find the packages of the image and those in this session's",
      ".libPaths(): install it with install.packages(), or for every session by the stack's 'rPackages' and 'pulumi up'"
    ), label_of(future), sub(".*(there is no package called [^ ]+).*", "\\1", text))
  }
  class(error) <- unique(c("KubernetesPackageError", "KubernetesError", class(error)))
  error
}

lost_error <- function(future, json) {
  lost <- jsonlite::fromJSON(json)
  memory <- any(grepl("(out of memory", lost$reasons, fixed = TRUE))
  n <- length(lost$pods)
  text <- paste0(
    sprintf("The worker of future %s was lost %d ", label_of(future), n), ngettext(n, "time", "times"),
    ", and the future is given up: ", paste(sprintf("%s: %s", lost$pods, lost$reasons), collapse = "; "),
    if (memory) ". Raise 'workerMemoryGiB' of the stack, or send less data to each future",
    if (nzchar(lost$tail)) paste0(". Its R printed last:\n", lost$tail)
  )
  error <- structure(future::FutureInterruptError(text, future = future), pods = lost$pods, reasons = lost$reasons)
  class(error) <- unique(c("KubernetesWorkerLostError", "KubernetesError", class(error)))
  error
}
