# Workers as nodes of a parallelly cluster: a connection to the broker with a worker's R at the other end.

session_timeout <- 30L * 24L * 3600L # parallelly's own default

# Up to n workers, requested together; those that are not free within `wait` seconds are left out.
attach_nodes <- function(n, wait = 0) {
  cons <- nodes <- list()
  # After Ctrl-C, close the connections of workers that have come and of those that are awaited.
  on.exit({
    for (con in cons) close(con)
    for (node in nodes) close_node(node)
  })
  for (i in seq_len(n)) cons[[i]] <- request(sprintf("attach %d %.1f", Sys.getpid(), wait), session_timeout)
  while (length(cons) > 0L) {
    con <- cons[[1L]]
    answer <- readLines(con, 1L)
    if (length(answer) && startsWith(answer, "wait ")) next
    cons <- cons[-1L]
    if (length(answer) && startsWith(answer, "ok ")) {
      nodes <- c(nodes, list(as_node(con, strsplit(answer, " ", fixed = TRUE)[[1L]], length(nodes) + 1L)))
    } else {
      close(con)
    }
  }
  greeted <- greet_nodes(nodes)
  nodes <- list()
  greeted
}

# A node from the fields of the broker's answer: "ok", lease, pod, node.
as_node <- function(con, fields, rank) {
  structure(
    list(con = con, host = fields[3L], rank = rank, lease = fields[2L], node = fields[4L], managed = TRUE),
    options = list(worker = fields[3L], manual = TRUE, useXDR = FALSE),
    class = c("kubernetes_node", "RichSOCKnode", "SOCK0node")
  )
}

# Nodes that have answered a first call, which all of them run at the same time. It proves the worker, and returns what
# parallelly's print() shows and the version of future on the worker.
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

# A function that future or parallel does not export. Looked up at each call: this package follows their versions.
internal <- function(name, package) get(name, envir = asNamespace(package), mode = "function", inherits = FALSE)

close_node <- function(node) {
  if (node_open(node)) try(close(node$con), silent = TRUE)
  invisible()
}

node_open <- function(node) {
  isTRUE(suppressWarnings(tryCatch(parallelly::isConnectionValid(node$con), error = function(e) FALSE)))
}

# TRUE while an unused worker is connected. It sends nothing before it is called, so anything to read is its end.
node_idle_alive <- function(node) tryCatch(!socketSelect(list(node$con), timeout = 0), error = function(e) FALSE)

leases <- function(nodes) vapply(unclass(nodes), function(node) node$lease, "")

# How the worker of a node ended, in words; empty while unknown.
outcome_of <- function(node) tryCatch(ask("outcome", node$lease), error = function(e) "")

#' @exportS3Method parallelly::isNodeAlive
isNodeAlive.kubernetes_node <- function(x, ...) {
  # parallelly would look for the process on this machine, or by ssh on the pod.
  if (isTRUE(x$managed)) {
    return(NA) # plan(kubernetes) replaces its nodes itself; "not alive" would make future clone them
  }
  if (!node_open(x)) {
    return(FALSE)
  }
  !nzchar(outcome_of(x))
}

#' @exportS3Method parallelly::killNode
killNode.kubernetes_node <- function(x, ...) {
  close_node(x) # the worker's agent ends its R when the connection closes
  TRUE
}
