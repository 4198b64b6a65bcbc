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
  value <- list(path = tempfile("future-value-"), own = TRUE)
  failing <- function(code) {
    if (is.null(value$failed)) tryCatch(code, error = function(e) value$failed <<- conditionMessage(e))
  }
  failing(file <- file(value$path, "wb"))
  on.exit(if (inherits(file, "connection")) close(file))
  while (size > 0) {
    piece <- readBin(stream$con, "raw", min(size, 2^20))
    if (length(piece) == 0L) stop("the connection has ended")
    size <- size - length(piece)
    failing(writeBin(piece, file))
  }
  value
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
