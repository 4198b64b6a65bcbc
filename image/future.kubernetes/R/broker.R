# Client of the broker: lines of words over a loopback connection, see image/broker/sessions.py. In a session on another
# machine that connection leads through a port that is forwarded.

# The broker states the same number: image/common/protocol.py.
protocol_version <- 5L

run_folder <- function() Sys.getenv("FUTURE_KUBERNETES_RUN", "/run/future-kubernetes")

# A number of the release's settings; NA when there is none.
setting <- function(name) {
  folder <- Sys.getenv("FUTURE_KUBERNETES_CONFIG", "/etc/future-kubernetes/config")
  value <- tryCatch(suppressWarnings(as.numeric(readLines(file.path(folder, name), 1L, warn = FALSE))),
    error = function(e) NA_real_, warning = function(w) NA_real_
  )
  if (length(value) == 1L && !is.na(value)) value else NA_real_
}

# A connection to the broker on which these lines have been sent; both sides have stated their protocol version.
request <- function(words, timeout) {
  if (!remote_session()) {
    return(dial(local_port(), words, timeout))
  }
  tryCatch(dial(forwarded_port(), words, timeout), KubernetesBrokerError = function(e) {
    end_forward() # one that leads to a pod that has gone does not notice
    stop(e)
  })
}

local_port <- function() {
  port <- tryCatch(suppressWarnings(readLines(file.path(run_folder(), "broker.port"), 1L)), error = function(e) NULL)
  if (is.null(port)) {
    stop(kubernetes_error(
      "Broker", "There is no broker here: ", run_folder(), "/broker.port does not exist. ",
      "plan(kubernetes) works in R sessions of a release's scheduler pod. On another machine name the release, as in ",
      "plan(kubernetes, cluster = \"gke-team\"), see ?kubernetes_cluster"
    ))
  }
  port
}

dial <- function(port, words, timeout) {
  force(port) # what it says of a failure is not for the handler below
  con <- tryCatch(
    suppressWarnings(socketConnection("127.0.0.1",
      port = as.integer(port), blocking = TRUE, open = "a+b", timeout = timeout, options = "no-delay"
    )),
    error = identity
  )
  if (inherits(con, "error")) {
    open <- length(list.files("/proc/self/fd"))
    if (open >= 1020L) {
      stop(kubernetes_error("Broker", sprintf(paste(
        "This R process has %d files and connections open, and R's sockets work only with the first 1,024.",
        "Close those that are not needed, as by closeAllConnections(), and try again"
      ), open)))
    }
    stop(kubernetes_error(
      "Broker", "The broker of this pod does not answer. It restarts by itself within seconds: try again; ",
      "its messages are in 'kubectl logs' of this pod"
    ))
  }
  opened <- FALSE
  on.exit(if (!opened) close(con))
  writeLines(paste(c(paste("protocol", protocol_version), words), collapse = "\n"), con) # one string is one packet
  line <- readLines(con, 1L)
  if (length(line) == 0L) stop(kubernetes_error("Broker", closed_by_broker))
  if (line != paste("protocol", protocol_version)) stop(version_error(line))
  opened <- TRUE
  con
}

closed_by_broker <- "The broker closed the connection; it may be restarting: try again"

version_error <- function(line) {
  stated <- if (startsWith(line, "protocol ")) sub("protocol ", "protocol version ", line) else "no protocol version"
  kubernetes_error(
    "Version", "The R package future.kubernetes of this session states protocol version ", protocol_version,
    " and the broker of this pod ", stated, "; both must state the same. ",
    "Restart the R session. If that does not help, remove the other version of the package from your own library with ",
    "remove.packages(\"future.kubernetes\"), and restart the R session"
  )
}

# One request and its answer, without the leading "ok".
ask <- function(..., timeout = 30L) {
  con <- request(paste(...), timeout)
  on.exit(close(con))
  answer <- readLines(con, 1L)
  if (length(answer) == 0L) {
    stop(kubernetes_error("Broker", closed_by_broker))
  }
  if (startsWith(answer, "error ")) stop(answer_error(sub("^error ", "", answer)))
  sub("^ok ?", "", answer)
}

# The workers as the Kubernetes API reports them. A problem that lasts for `patience` seconds is not cured by waiting.
kubernetes_status <- function() {
  fields <- c(strsplit(ask("status"), "\t", fixed = TRUE)[[1]], "", "", "")
  n <- as.integer(strsplit(fields[1], " ", fixed = TRUE)[[1]])
  patience <- suppressWarnings(as.numeric(fields[4]))
  list(
    wanted = n[1], connected = n[2], waiting = n[4], text = fields[2], problem = fields[3],
    patience = if (is.na(patience)) 0 else patience
  )
}
