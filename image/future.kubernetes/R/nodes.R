# Workers as nodes of a parallelly cluster: a connection to the broker with a worker's R at the other end.

session_timeout <- 30L * 24L * 3600L # parallelly's own default

# Up to n workers, asked for together; those that are not free within `wait` seconds are left out.
attach_nodes <- function(n, wait = 0) {
  cons <- nodes <- list()
  # After Ctrl-C, the workers that have come are let go as well as those that were still waited for.
  on.exit({
    for (con in cons) close(con)
    for (node in nodes) close_node(node)
  })
  for (i in seq_len(n)) {
    cons[[i]] <- dial(session_timeout)
    writeLines(sprintf("attach %d %.1f", Sys.getpid(), wait), cons[[i]])
  }
  while (length(cons) > 0L) {
    con <- cons[[1L]]
    answer <- readLines(con, 1L)
    if (length(answer) && startsWith(answer, "wait ")) next
    cons <- cons[-1L]
    if (length(answer) && startsWith(answer, "ok ")) {
      fields <- strsplit(answer, " ", fixed = TRUE)[[1L]]
      nodes <- c(nodes, list(structure(
        list(con = con, host = fields[3L], rank = length(nodes) + 1L, attachment = fields[2L], node = fields[4L], managed = TRUE),
        options = list(worker = fields[3L], manual = TRUE, useXDR = FALSE),
        class = c("kubernetes_node", "RichSOCKnode", "SOCK0node")
      )))
    } else {
      close(con)
    }
  }
  greeted <- greet_nodes(nodes)
  nodes <- list()
  greeted
}

# A first call to each, all under way at once: it proves the worker, and tells what parallelly's print shows and which
# version of future is there.
greet_nodes <- function(nodes) {
  hello <- function() {
    list(
      r = c(R.version, os.type = .Platform$OS.type), system = as.list(Sys.info()), libs = .libPaths(),
      process = list(pid = Sys.getpid()),
      future = tryCatch(getNamespaceVersion("future"), error = function(e) NULL)
    )
  }
  environment(hello) <- baseenv()
  here <- getNamespaceVersion("future")
  sent <- lapply(nodes, function(node) tryCatch(send_call(node, hello), error = identity))
  good <- lapply(seq_along(nodes), function(i) {
    if (inherits(sent[[i]], "error")) {
      return(NULL)
    }
    info <- tryCatch(receive_result(nodes[[i]]), error = function(e) NULL)
    if (is.null(info)) {
      close_node(nodes[[i]])
      return(NULL)
    }
    nodes[[i]]$same_future <- identical(info$future, here)
    nodes[[i]]$session_info <- info[names(info) != "future"]
    nodes[[i]]
  })
  good[!vapply(good, is.null, NA)]
}

send_call <- function(node, fun, args = list()) internal("sendCall", "parallel")(node, fun, args)
receive_result <- function(node) suppressWarnings(internal("recvResult", "parallel")(node))

# What future and parallel do not export. Looked up when called, so that this package follows their versions.
internal <- function(name, package) get(name, envir = asNamespace(package), mode = "function", inherits = FALSE)

close_node <- function(node) {
  if (node_open(node)) try(close(node$con), silent = TRUE)
  invisible()
}

node_open <- function(node) isTRUE(suppressWarnings(tryCatch(parallelly::isConnectionValid(node$con), error = function(e) FALSE)))

# A worker that waits for a call has nothing to say: what can be read then is the end of its connection.
node_idle_alive <- function(node) tryCatch(!socketSelect(list(node$con), timeout = 0), error = function(e) FALSE)

#' @exportS3Method parallelly::isNodeAlive
isNodeAlive.kubernetes_node <- function(x, ...) {
  # parallelly would look for the process on this machine, or by ssh on the pod.
  if (isTRUE(x$managed)) {
    return(NA) # plan(kubernetes) replaces its nodes itself; "not alive" would make future clone them
  }
  if (!node_open(x)) {
    return(FALSE)
  }
  fate <- tryCatch(ask("fate", x$attachment), error = function(e) "")
  !nzchar(fate)
}

#' @exportS3Method parallelly::killNode
killNode.kubernetes_node <- function(x, ...) {
  close_node(x) # the worker's agent ends its R when the session lets go
  TRUE
}
