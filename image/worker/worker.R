# The program of a worker's R, from its start to its end: takes tasks from its agent and sends back what became of them.
#
#   agent  task SIZE, SIZE bytes          a future as future.kubernetes serialized it
#          attach 0                       from here on R's own protocol, with an R session at the other end
#   R      done SIZE, SIZE bytes          the result, serialized
#          condition SIZE, SIZE bytes     a condition that the session is to see at once
#          unread SIZE, SIZE bytes        text: the task could not be read
#          unsent SIZE, SIZE bytes        text: the result could not be serialized

local({
  argument <- function(name) {
    prefix <- paste0(name, "=")
    as.integer(substring(grep(prefix, commandArgs(TRUE), fixed = TRUE, value = TRUE)[1L], nchar(prefix) + 1L))
  }

  # A connection that a future names by a number of its session must not be the one to the agent. So that one gets a
  # high number, and the lower ones are not open.
  taken <- lapply(seq_len(64L), function(i) rawConnection(raw()))
  con <- socketConnection("127.0.0.1", argument("PORT"),
    blocking = TRUE, open = "a+b", timeout = argument("TIMEOUT"), options = "no-delay"
  )
  for (other in taken) close(other)

  # Done before the first task, because it takes time at its first use: half a second to load future, and some 20 ms for
  # availableCores(), which plan() calls on every worker (0.4 s for 40 workers that share two cores).
  invisible(try({
    loadNamespace("future")
    parallelly::availableCores()
  }, silent = TRUE))

  # future lists the open connections and devices before and after each future, and warns of one that was left open. It
  # puts both lists into data frames even when they are the same, which takes a worker half of the time of a small
  # future. In this process they are compared first. When they differ, future's own function runs; a future without
  # these functions is not changed.
  invisible(try({
    at_once_if_same <- function(compare) {
      force(compare)
      same <- NULL
      function(...) {
        two <- lapply(list(...), as.list) # R's list of devices is a pairlist
        if (!identical(two[[1L]], two[[2L]])) {
          return(compare(...))
        }
        if (is.null(same)) same <<- list(compare(...))
        same[[1L]]
      }
    }
    future <- asNamespace("future")
    for (name in c("diff_connections", "diff_devices")) {
      if (exists(name, envir = future, mode = "function", inherits = FALSE)) {
        unlockBinding(name, future)
        assign(name, at_once_if_same(get(name, envir = future)), envir = future)
        lockBinding(name, future)
      }
    }
  }, silent = TRUE))

  # writeBin() takes no more than 2^31 - 1 bytes at once, and readBin() reads no more.
  most <- 2^30
  send <- function(word, bytes) {
    writeBin(charToRaw(sprintf("%s %.0f\n", word, length(bytes))), con)
    from <- 0
    while (from < length(bytes)) {
      to <- min(length(bytes), from + most)
      writeBin(if (from == 0 && to == length(bytes)) bytes else bytes[(from + 1):to], con)
      from <- to
    }
  }
  receive <- function(size) {
    if (size <= most) {
      return(readBin(con, "raw", size))
    }
    pieces <- list()
    while (size > 0) {
      pieces[[length(pieces) + 1L]] <- readBin(con, "raw", min(size, most))
      size <- size - min(size, most)
    }
    do.call(c, pieces)
  }

  # What a future signals to be seen at once goes through this option's function: see launch() in future.kubernetes.
  options(future.kubernetes.condition = function(condition) send("condition", serialize(condition, NULL, xdr = FALSE)))

  run <- function(data) {
    future <- asNamespace("future")
    rm(list = ls(globalenv(), all.names = TRUE), envir = globalenv())
    extra <- data[["kubernetes"]]
    data[["kubernetes"]] <- NULL
    evaluate <- if (is.null(extra[["evaluate"]])) future[["evalFuture"]] else extra[["evaluate"]]
    result <- evaluate(data)
    if (isTRUE(extra[["gc"]])) gc()
    result
  }

  repeat {
    line <- readLines(con, 1L)
    if (length(line) == 0L) quit("no")
    words <- strsplit(line, " ", fixed = TRUE)[[1L]]
    if (words[1L] == "attach") break
    bytes <- receive(as.numeric(words[2L]))
    data <- tryCatch(unserialize(bytes), error = identity)
    bytes <- NULL
    if (inherits(data, "error")) {
      send("unread", charToRaw(conditionMessage(data)))
      next
    }
    result <- run(data)
    data <- NULL
    answer <- tryCatch(serialize(result, NULL, xdr = FALSE), error = identity)
    result <- NULL
    if (inherits(answer, "error")) send("unsent", charToRaw(conditionMessage(answer))) else send("done", answer)
    answer <- NULL
  }
  parallel:::workLoop(structure(list(con = con), class = "SOCK0node"))
})
