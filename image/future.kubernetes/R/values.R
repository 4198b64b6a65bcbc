# Large values of results: one that many futures return comes once from the broker, and each future gets a copy of it.
#
# In the pod a value is a file of the broker's, named before each result that has it. On another machine it is a file of
# this session, until the broker says that no result needs it.

hear_value <- function(stream, words) {
  hash <- words[2L]
  forget_value(stream, hash)
  if (words[1L] == "value-file") stream$values[[hash]] <- list(path = paste(words[-(1:3)], collapse = " "))
  if (words[1L] == "value") stream$values[[hash]] <- receive_value(stream, as.numeric(words[3L]))
}

# Without room for it, all of it is read nevertheless: what follows is the next message.
receive_value <- function(stream, size) {
  path <- scratch_file("future-value-")
  # R only warns of a full disk.
  problem <- function(code) {
    tryCatch({
      code
      NULL
    }, error = conditionMessage, warning = conditionMessage)
  }
  file <- NULL
  failed <- problem(file <- file(path, "wb"))
  on.exit(if (!is.null(file)) close(file))
  left <- size
  while (left > 0) {
    piece <- readBin(stream$con, "raw", min(left, 2^20))
    if (length(piece) == 0L) stop("the connection has ended")
    left <- left - length(piece)
    if (is.null(failed)) failed <- problem(writeBin(piece, file))
  }
  if (is.null(failed)) {
    on.exit()
    failed <- problem(close_whole(file, path, size))
  }
  if (is.null(failed)) {
    return(list(path = path, own = TRUE))
  }
  unlink(path) # its room may be what the session needs next
  list(path = path, own = TRUE, failed = paste0("the disk of ", dirname(path), ": ", failed))
}

forget_value <- function(stream, hash) {
  known <- stream$values[[hash]]
  if (isTRUE(known$own)) unlink(known$path)
  if (!is.null(known)) rm(list = hash, envir = stream$values)
}

forget_values <- function(stream) {
  for (hash in ls(stream$values)) forget_value(stream, hash)
}

# A result with its large values. They are read for each future anew, so that what is changed in place is one future's.
with_values <- function(stream, result, hashes) {
  which <- attr(result, "kubernetes_values") # image/worker/worker.R sets it
  if (is.null(hashes) || is.null(which)) {
    return(result)
  }
  values <- lapply(hashes, function(hash) {
    known <- stream$values[[hash]]
    if (!is.null(known$failed)) stop(known$failed)
    con <- file(known$path, "rb")
    on.exit(close(con))
    unserialize(con)
  })
  if (identical(which, 0L)) result["value"] <- values else result[["value"]][which] <- values
  attr(result, "kubernetes_values") <- NULL
  for (hash in unique(hashes)) if (is.null(stream$values[[hash]]$own)) forget_value(stream, hash)
  result
}
