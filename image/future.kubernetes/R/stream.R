# The connection of a plan to the broker: futures go as tasks, and what becomes of them comes back. The broker's side,
# with the protocol, is image/broker/stream.py.
#
# A `stream` is an environment: the connection `con`, the plan's `key`, the process `pid` that opened it, `futures` by
# number, the `bytes` of tasks that have not ended, and the `limit` of them.

session_timeout <- 30L * 24L * 3600L # parallelly's own default
long_pause <- 60 # seconds
pause_answer <- 10L # seconds for an answer after one
max_acknowledged <- 200L # results in a line that says they have arrived

open_stream <- function(range, retries, setup = NULL) {
  stream <- new.env(parent = emptyenv())
  stream$session <- session_id()
  stream$remote <- remote_session()
  # Without the user's random numbers.
  stream$key <- paste0("p", Sys.getpid(), basename(tempfile("")), basename(tempfile("")))
  stream$pid <- Sys.getpid()
  stream$range <- range
  stream$retries <- retries
  stream$setup <- setup
  stream$futures <- new.env(parent = emptyenv())
  stream$number <- 0L
  stream$bytes <- 0
  stream$active <- 0L
  stream$arrived <- integer()
  stream$values <- new.env(parent = emptyenv())
  forget_objects(stream)
  connect_stream(stream)
  # A session that ends says so, rather than leave the broker to find out.
  reg.finalizer(stream, close_stream, onexit = TRUE)
  stream
}

connect_stream <- function(stream) {
  con <- request(sprintf(
    "open %s %d %d %d %d", stream$key, stream$session, stream$range[1L], stream$range[2L], stream$retries
  ), session_timeout)
  good <- FALSE
  on.exit(if (!good) close(con))
  answer <- readLines(con, 1L)
  if (length(answer) == 0L) stop(kubernetes_error("Broker", closed_by_broker))
  if (startsWith(answer, "error ")) stop(answer_error(sub("^error ", "", answer)))
  fields <- as.numeric(strsplit(answer, " ", fixed = TRUE)[[1L]][-1L])
  forget_values(stream) # of an earlier connection
  stream$maximum <- as.integer(fields[1L])
  stream$limit <- fields[2L]
  stream$con <- con
  stream$broken <- FALSE
  stream$looked <- clock()
  stream$heard <- -Inf
  good <- TRUE
}

# After a lost connection, or one whose message was read in part: the broker sends again what has not arrived, and asks
# for the tasks that it does not have.
reconnect_stream <- function(stream, wait = if (stream$remote) 300 else 60) {
  close_connection(stream)
  waited <- stopwatch()
  told <- FALSE
  repeat {
    failed <- tryCatch({
      connect_stream(stream)
      NULL
    }, KubernetesBrokerError = identity, KubernetesUnreachableError = identity, KubernetesUnavailableError = identity)
    if (is.null(failed)) break
    # A release that does not exist any more does not come back as a pod does.
    if (waited() > if (inherits(failed, "KubernetesUnavailableError")) min(wait, 30) else wait) stop(failed)
    if (stream$remote && !told && waited() > 3) {
      message("The connection to the release was lost; it is made again. ", conditionMessage(failed))
      told <- TRUE
    }
    Sys.sleep(if (stream$remote) 1 else 0.2) # a broker that was lost is back within a second or two
  }
  forget_objects(stream)
  numbers <- ls(stream$futures)
  for (some in split(numbers, (seq_along(numbers) - 1L) %/% max_acknowledged)) say(stream, "hold", some)
}

# Only the process that opened a stream may use it: a forked child has a copy of its connection.
usable_stream <- function(stream) {
  if (stream$pid != Sys.getpid()) {
    stop(kubernetes_error("Session", sprintf(paste(
      "This plan belongs to the R process %d, not to this one (%d), which is a forked child or a copy of it.",
      "Set a plan in this process"
    ), stream$pid, Sys.getpid()), class = "FutureError"))
  }
  if (is.null(stream$con)) stop(kubernetes_error("Session", "This plan has ended", class = "FutureError"))
  if (stream$remote) check_after_pause(stream)
  if (stream$broken || !connection_open(stream$con)) reconnect_stream(stream)
  stream
}

# After a pause, as of a laptop that was asleep, the forward may lead nowhere and not notice for a quarter of an hour.
# Where something has come, or the connection has ended, that shows by itself.
check_after_pause <- function(stream) {
  paused <- clock() - stream$looked > long_pause
  if (paused && !stream$broken && connection_open(stream$con) && !socketSelect(list(stream$con), timeout = 0)) {
    tryCatch(suppressWarnings(ask("connected", timeout = pause_answer)), KubernetesError = function(e) {
      end_forward()
      stream$broken <- TRUE
    })
  }
  stream$looked <- clock()
}

# parallelly::isConnectionValid() does the same in half a millisecond, which would be a fifth of a small future.
connection_open <- function(con) {
  now <- tryCatch(getConnection(con), error = function(e) NULL) # after closeAllConnections(), maybe another one
  !is.null(now) && identical(attr(now, "conn_id"), attr(con, "conn_id"))
}

close_connection <- function(stream) {
  if (connection_open(stream$con)) try(close(stream$con), silent = TRUE)
}

close_stream <- function(stream, how = NULL) {
  if (is.null(stream$con)) {
    return(invisible())
  }
  if (stream$pid == Sys.getpid()) {
    # By its word, not by the connection's end: a child process may hold the connection open.
    try(suppressWarnings({
      if (stream$broken || !connection_open(stream$con)) connect_stream(stream)
      say(stream, "close", how)
      # The broker closes once Kubernetes has been told; without an API that takes five seconds.
      if (!is.null(how)) {
        while (socketSelect(list(stream$con), timeout = 6) && length(readLines(stream$con, 1L)) > 0L) NULL
      }
    }), silent = TRUE)
    close_connection(stream)
  }
  forget_values(stream)
  stream$con <- NULL
  invisible()
}

# A write that is interrupted in its middle leaves the connection of no more use.
say <- function(stream, ..., body = NULL, file = NULL) {
  done <- FALSE
  on.exit(if (!done) stream$broken <- TRUE)
  writeBin(c(charToRaw(paste0(paste(c(...), collapse = " "), "\n")), body), stream$con)
  if (!is.null(file)) {
    source <- file(file, "rb")
    on.exit(close(source), add = TRUE)
    while (length(piece <- readBin(source, "raw", 2^20)) > 0L) writeBin(piece, stream$con)
  }
  done <- TRUE
}

# The same with packed data. In the pod the broker takes a file over, and only its name is said.
say_packed <- function(stream, words, id, packed, ...) {
  size <- sprintf("%.0f", packed$size)
  if (is.null(packed$file) || stream$remote) {
    say(stream, words[1L], id, size, ..., body = packed$bytes, file = packed$file)
  } else {
    say(stream, words[2L], id, size, utils::URLencode(packed$file, reserved = TRUE), ...)
  }
}

# A future's data on their way to a worker. Number and size are remembered until it has ended.
submit <- function(stream, future) {
  world <- world_bytes(stream)
  tryCatch({
    referred <- with_references(stream, task_data(future))
    referred$needs <- c(referred$needs, stream$files$bundles)
    task <- packed(referred$data, head = world)
  }, error = function(e) {
    stop(if (inherits(e, "FutureError")) e else data_error(future, "sent by this session", conditionMessage(e)))
  })
  on.exit(if (!is.null(task$file)) unlink(task$file)) # not there any more once the broker has it
  await_room(stream, task$size)
  number <- future[["task"]]
  if (is.null(number)) {
    number <- future[["task"]] <- stream$number <- stream$number + 1L
  }
  name <- as.character(number)
  label <- future[["label"]]
  label <- if (is.null(label)) "" else substr(gsub("[[:space:]]+", " ", label), 1L, 200L)
  if (is.null(stream$futures[[name]])) {
    stream$active <- stream$active + 1L
    stream$bytes <- stream$bytes + task$size
    future[["task_bytes"]] <- task$size
  }
  if (is.null(future[["task_needs"]])) count_needs(stream, referred$needs, 1L)
  future[["task_needs"]] <- referred$needs
  stream$futures[[name]] <- future
  acknowledge(stream)
  needs <- if (length(referred$needs)) paste(referred$needs, collapse = ",") else "-"
  # A broker that is lost in between gets the task when the stream is connected again and asks for it.
  tryCatch(suppressWarnings({
    tell_libraries(stream)
    say_packed(stream, c("submit", "file"), number, task, needs, label)
  }), error = function(e) stream$broken <- TRUE)
  if (!stream$broken && !stream$remote) on.exit()
}

# Data, serialized, after bytes that are it already: in memory, or above 16 MiB in a file that the broker takes over. So
# that a session does not need twice the memory of what it sends.
packed <- function(data, head = raw()) {
  if (utils::object.size(data) < 16 * 2^20) {
    bytes <- c(head, serialize(data, NULL, xdr = FALSE))
    return(list(size = length(bytes), bytes = bytes))
  }
  file <- scratch_file("future-task-")
  whole <- FALSE
  con <- file(file, "wb")
  on.exit(if (!whole) {
    try(close(con), silent = TRUE)
    unlink(file)
  })
  writeBin(head, con)
  serialize(data, con, xdr = FALSE)
  close_whole(con, file)
  whole <- TRUE
  list(size = file.size(file), file = normalizePath(file))
}

# A file on its way to the broker. The tests put it on a disk that is full.
scratch_file <- function(prefix) tempfile(prefix)

# Close a file that was written. R warns of a full disk, or says nothing where that shows at the end only.
close_whole <- function(con, path, size = seek(con)) {
  force(size)
  close(con)
  if (file.size(path) < size) stop("the disk of ", dirname(path), " is full")
}

acknowledge <- function(stream) {
  if (length(stream$arrived) > 0L) {
    numbers <- stream$arrived
    stream$arrived <- integer()
    try(suppressWarnings(say(stream, "got", numbers)), silent = TRUE)
  }
}

# Wait until the broker may take so many more bytes of this plan.
await_room <- function(stream, bytes) {
  if (bytes > stream$limit) {
    stop(kubernetes_error("Globals", sprintf(paste(
      "The future's data are %.1f MB, and the scheduler's pod has room for %.1f MB:",
      "send less, as by a file that the workers read"
    ), bytes / 1e6, stream$limit / 1e6), class = "FutureError"))
  }
  told <- FALSE
  while (stream$bytes + bytes > stream$limit && stream$active > 0L) {
    if (!told) {
      message(sprintf(
        "%.1f MB of futures wait for workers; the next one is sent when some have ended", stream$bytes / 1e6
      ))
    }
    told <- TRUE
    hear(stream, 0.5)
  }
}

# Take what the broker has sent, after waiting up to `wait` seconds for the first of it. TRUE if there was anything.
hear <- function(stream, wait = 0) {
  usable_stream(stream)
  any <- FALSE
  while (socketSelect(list(stream$con), timeout = if (any) 0 else wait)) {
    any <- TRUE
    hear_one(stream)
    if (stream$broken) reconnect_stream(stream)
  }
  if (length(stream$arrived) >= max_acknowledged || (any && stream$active == 0L)) acknowledge(stream)
  stream$heard <- clock()
  any
}

hear_one <- function(stream) {
  whole <- FALSE
  on.exit(if (!whole) stream$broken <- TRUE)
  line <- suppressWarnings(tryCatch(readLines(stream$con, 1L), error = function(e) character()))
  if (length(line) == 0L) {
    return(invisible())
  }
  words <- strsplit(line, " ", fixed = TRUE)[[1L]]
  if (words[1L] %in% c("value", "value-file", "forget")) {
    hear_value(stream, words)
    whole <- TRUE
    return(invisible())
  }
  number <- words[2L]
  future <- stream$futures[[number]]
  values <- if (words[1L] == "done" && length(words) > 3L) strsplit(words[3L], ",", fixed = TRUE)[[1L]]
  bodied <- !words[1L] %in% c("ready", "again", "unknown", "error")
  if (bodied) {
    size <- as.numeric(words[length(words)])
    if (words[1L] == "done" && size > 2^24 && !is.null(future)) {
      # Not by way of a raw vector, which would need twice the memory. What fails leaves the rest of it unread.
      result <- tryCatch(unserialize(stream$con), error = identity)
      whole <- !inherits(result, "error")
      if (whole || connection_open(stream$con)) take_result(stream, future, result, values)
      return(invisible())
    }
    body <- readBin(stream$con, "raw", size)
    if (length(body) != size) {
      return(invisible()) # the connection has ended
    }
  }
  whole <- TRUE
  if (words[1L] == "want") {
    return(send_package(stream, rawToChar(body)))
  }
  if (is.null(future)) {
    if (bodied && words[1L] != "condition") stream$arrived <- c(stream$arrived, as.integer(number))
    return(invisible())
  }
  switch(words[1L],
    done = take_result(stream, future, tryCatch(unserialize(body), error = identity), values),
    ready = future[["ready"]] <- TRUE,
    condition = take_condition(future, words[3L], body),
    again = {
      text <- paste(words[-(1:3)], collapse = " ")
      message(sprintf("Worker %s was lost (%s); future %s is run again", words[3L], text, label_of(future)))
    },
    lost = end_future(stream, future, lost_error(future, rawToChar(body))),
    unknown = {
      forget_objects(stream)
      submit(stream, future)
    },
    setup = end_future(stream, future, setup_error(future, rawToChar(body))),
    unread = end_future(stream, future, unread_error(future, rawToChar(body))),
    end_future(stream, future, data_error(future, reason_words[[words[1L]]], rawToChar(body)))
  )
  invisible()
}

# The future has ended: its result is here, or an error in its place.
end_future <- function(stream, future, result) {
  forget_future(stream, future)
  stream$arrived <- c(stream$arrived, future[["task"]])
  if (inherits(result, "FutureResult")) {
    signaled <- future[[".signaledConditions"]]
    if (length(signaled) > 0L) result[["conditions"]] <- c(signaled, result[["conditions"]])
    future[[".signaledConditions"]] <- NULL
    future[["state"]] <- "finished"
    count_future(future, result)
  } else {
    future[["state"]] <- if (inherits(result, "FutureInterruptError")) "interrupted" else "failed"
  }
  future[["result"]] <- result
}

forget_future <- function(stream, future) {
  name <- as.character(future[["task"]])
  if (is.null(stream$futures[[name]])) {
    return(invisible())
  }
  rm(list = name, envir = stream$futures)
  stream$active <- stream$active - 1L
  stream$bytes <- stream$bytes - future[["task_bytes"]]
  count_needs(stream, future[["task_needs"]], -1L)
}
