# Workers of plan(cluster, manual = TRUE) and parallel: parallelly asks these methods about them. The profile of the
# image makes such a node.

node_open <- function(node) connection_open(node$con)

#' @exportS3Method parallelly::isNodeAlive
isNodeAlive.kubernetes_node <- function(x, ...) {
  # parallelly would look for the process on this machine, or by ssh on the pod.
  node_open(x) && !nzchar(tryCatch(ask("outcome", x$lease), error = function(e) ""))
}

#' @exportS3Method parallelly::killNode
killNode.kubernetes_node <- function(x, ...) {
  if (node_open(x)) try(close(x$con), silent = TRUE) # the worker's agent ends its R when the connection closes
  TRUE
}
