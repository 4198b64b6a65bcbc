# Waits for workers, with a progress line that names the cause of a delay.

clock <- function() proc.time()[["elapsed"]]

# A function that returns the seconds since this call. R's clock goes on while a laptop sleeps: of the time between two
# looks at this one no more than `longest` counts, so that an hour asleep is no hour of waiting.
stopwatch <- function(longest = 60) {
  state <- new.env(parent = emptyenv())
  state$last <- clock()
  state$sum <- 0
  function() {
    now <- clock()
    state$sum <- state$sum + min(now - state$last, longest)
    state$last <- now
    state$sum
  }
}

# Number of connected workers, of those that all plans of the release want within its maximum, and without that bound.
connected_workers <- function() {
  n <- as.integer(strsplit(ask("connected"), " ", fixed = TRUE)[[1L]])
  list(connected = n[1L], wanted = n[2L], all = n[3L])
}

# Wait until as many workers are there as this plan asks for, its own or shared with other sessions.
await_plan <- function(n, wait) {
  now <- connected_workers()
  if (now$all > now$wanted) {
    message(sprintf(
      "Other R sessions want %d workers, and this release allows %d: the futures of all sessions share them",
      now$all - n, now$wanted
    ))
  }
  if (now$connected < min(n, now$wanted)) {
    ask("demand")
    await_workers(function() {
      now <- connected_workers()
      list(connected = now$connected, wanted = min(n, now$wanted))
    }, wait)
  }
}

# Wait until `count` returns as many connected workers as wanted ones.
await_workers <- function(count, wait) {
  line <- progress_line()
  on.exit(line$end())
  waited <- stopwatch()
  watch <- problem_watch()
  repeat {
    n <- count()
    if (n$connected >= n$wanted) {
      return(invisible())
    }
    problem <- watch$check()
    if (nzchar(problem)) {
      stop(kubernetes_error(
        "Unavailable", sprintf("%d workers were asked for, %d came. ", n$wanted, n$connected), problem
      ))
    }
    text <- watch$text()
    if (waited() > wait) {
      stop(kubernetes_error("Unavailable", sprintf(
        "%d workers were asked for, %d came within %.0f s. %s", n$wanted, n$connected, wait, text
      )))
    }
    line$show(how_many(n, text))
    Sys.sleep(if (waited() < 2) 0.05 else 0.25)
  }
}

how_many <- function(n, text) {
  sprintf("%d workers: %d connected%s", n$wanted, n$connected, if (nzchar(text)) paste0(", ", text) else "")
}

# Looks after the workers while a future is waited for: look() shows what is missing, and stops where no worker is there
# and none can come.
worker_watch <- function(wait) {
  line <- progress_line(quiet = 0) # made once a future has been waited for
  watch <- problem_watch()
  waited <- stopwatch()
  list(
    end = line$end,
    look = function() {
      # On another machine the forward may have ended: the plan's own connection is made again with patience.
      unknown <- function(e) NULL
      n <- tryCatch(
        connected_workers(),
        KubernetesBrokerError = unknown, KubernetesUnreachableError = unknown, KubernetesUnavailableError = unknown
      )
      if (is.null(n) || n$connected >= n$wanted) {
        waited <<- stopwatch()
        return(invisible())
      }
      problem <- watch$check()
      text <- watch$text()
      if (n$connected > 0L) {
        waited <<- stopwatch()
      } else if (nzchar(problem) || waited() > wait) {
        stop(kubernetes_error(
          "Unavailable", sprintf("The future waits for a worker, and none of %d is there. ", n$wanted),
          if (nzchar(problem)) problem else sprintf("None came within %.0f s. %s", wait, text)
        ))
      }
      line$show(how_many(n, text))
    }
  )
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
# The first `quiet` seconds pass without it.
progress_line <- function(quiet = 1) {
  shown <- ""
  terminal <- isatty(stderr())
  start <- clock()
  list(
    show = function(text) {
      if (text == shown || clock() - start < quiet) {
        return()
      }
      shown <<- text
      if (terminal) cat("\r", formatC(text, width = -100L), sep = "", file = stderr()) else message(text)
    },
    end = function() if (terminal && nzchar(shown)) cat("\n", file = stderr())
  )
}
