# The real broker and real workers of this machine, without pods: these tests run where the image's Python programs are.
# Real pods and their faults are tested on a cluster.
bed_folder <- tempfile("run")
dir.create(bed_folder)
bed_home <- Sys.getenv("FUTURE_KUBERNETES_HOME", "/usr/local/lib/future-kubernetes")
bed_pids <- new.env()
# Objects are counted here; those of files are tested on a cluster.
options(future.kubernetes.filesMB = 0)

in_background <- function(name, module, settings) {
  package <- if (dir.exists(file.path(bed_home, "future_kubernetes"))) "future_kubernetes" else "image"
  settings <- c(
    PYTHONPATH = bed_home, FUTURE_KUBERNETES_TOKEN_FILE = file.path(bed_folder, "token"),
    FUTURE_KUBERNETES_RUN = bed_folder, FUTURE_KUBERNETES_CONFIG = bed_folder, settings
  )
  old <- Sys.getenv(names(settings), NA, names = TRUE)
  do.call(Sys.setenv, as.list(settings))
  on.exit({
    Sys.unsetenv(names(old)[is.na(old)])
    old <- old[!is.na(old)]
    if (length(old)) do.call(Sys.setenv, as.list(old))
  })
  log <- file.path(bed_folder, paste0(name, ".log"))
  command <- sprintf("exec python3 -m %s.%s >%s 2>&1 & echo $!", package, module, shQuote(log))
  bed_pids[[name]] <- as.integer(system(command, intern = TRUE))
}

start_broker <- function() {
  port <- file.path(bed_folder, "broker.port")
  unlink(port)
  in_background("broker", "broker.main", c(
    FUTURE_KUBERNETES_PORT = "28786", FUTURE_KUBERNETES_SESSION_PORT = "0", FUTURE_KUBERNETES_HTTP_PORT = "0",
    FUTURE_KUBERNETES_RELEASE = "check", KUBERNETES_SERVICE_HOST = ""
  ))
  for (i in 1:200) if (file.exists(port)) break else Sys.sleep(0.1)
}

start_worker <- function(i) {
  in_background(paste0("w", i), "worker.agent", c(
    FUTURE_KUBERNETES_SCHEDULER = "127.0.0.1", FUTURE_KUBERNETES_PORT = "28786",
    FUTURE_KUBERNETES_HTTP_PORT = as.character(28800L + i), POD_NAME = paste0("w", i), NODE_NAME = "here"
  ))
}

start_bed <- function(n = 3L) {
  if (!nzchar(Sys.which("python3")) || !dir.exists(bed_home)) {
    testthat::skip("the broker and the workers are Python programs of the image")
  }
  if (length(bed_pids)) stop_bed() # that of all files
  writeLines(paste(rep("token", 8), collapse = ""), file.path(bed_folder, "token"))
  writeLines("5", file.path(bed_folder, "maxWorkers"))
  start_broker()
  for (i in seq_len(n)) start_worker(i)
  Sys.setenv(FUTURE_KUBERNETES_RUN = bed_folder, FUTURE_KUBERNETES_CONFIG = bed_folder)
  await(nrow(workers()) == n)
}

stop_bed <- function() {
  future::plan(future::sequential)
  for (pid in as.list(bed_pids)) tools::pskill(pid)
  # The next broker and the next workers have the same ports. An agent may wait for its R's computation.
  busy <- function() Filter(function(i) listens(28800L + i), 1:5)
  for (i in 1:100) if (length(busy())) Sys.sleep(0.1) else break
  for (i in busy()) tools::pskill(bed_pids[[paste0("w", i)]], 9)
  rm(list = ls(bed_pids), envir = bed_pids)
  await(!listens(28786L))
}

listens <- function(port) {
  con <- tryCatch(suppressWarnings(socketConnection(port = port, timeout = 1L)), error = function(e) NULL)
  if (!is.null(con)) close(con)
  !is.null(con)
}

# One broker and three workers for all files that do not need a bed of their own. The plan of the file before ends:
# plan() with the same words would take it up.
use_bed <- function() {
  testthat::skip_on_os("windows")
  if (length(bed_pids) == 0L) {
    start_bed(3L)
    withr::defer(stop_bed(), testthat::teardown_env())
  }
  future::plan(future::sequential)
}

# Waits for a condition, never for a time.
await <- function(condition) {
  code <- substitute(condition)
  patience <- as.numeric(Sys.getenv("FUTURE_KUBERNETES_PATIENCE", "1")) # larger on a slow machine
  for (i in seq_len(600 * patience)) {
    if (isTRUE(try(eval(code, parent.frame()), silent = TRUE))) {
      return(invisible(TRUE))
    }
    Sys.sleep(0.05)
  }
  stop("not within ", 30 * patience, " s: ", deparse(code))
}

# Statements on futures in general are tested on this backend and on stock plan(cluster).
both <- function(code) {
  for (backend in list(kubernetes, future::cluster)) {
    future::plan(backend, workers = if (identical(backend, kubernetes)) 2 else rep("localhost", 2L))
    code()
    future::plan(future::sequential)
  }
}

# A session on another machine, with a kubectl that forwards to the broker of this one.
fake_kubectl <- '#!/usr/bin/env python3
import os, socket, sys, threading
said = " ".join(sys.argv)
for word, text in {"no-right": "pods is forbidden: no right", "no-release": "deployments.apps not found"}.items():
    if word in said:
        sys.exit(f"Error from server: {text}")
offline = os.path.join(os.path.dirname(sys.argv[0]), "offline")
if os.path.exists(offline):
    sys.exit(open(offline).read())
server = socket.create_server(("127.0.0.1", 0))
print(f"Forwarding from 127.0.0.1:{server.getsockname()[1]} -> 8784", flush=True)
def pump(a, b):
    try:
        while data := a.recv(65536):
            b.sendall(data)
    except OSError:
        pass
    for end in (a, b):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
while True:
    here, _ = server.accept()
    there = socket.create_connection(("127.0.0.1", int(open("PORT").read())))
    for end in (here, there):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    threading.Thread(target=pump, args=(here, there), daemon=True).start()
    threading.Thread(target=pump, args=(there, here), daemon=True).start()
'

on_a_laptop <- function(code) {
  folder <- tempfile("bin-")
  dir.create(folder)
  kubectl <- file.path(folder, "kubectl")
  writeLines(sub("PORT", file.path(bed_folder, "broker.port"), fake_kubectl, fixed = TRUE), kubectl)
  Sys.chmod(kubectl, "755")
  old <- Sys.getenv(c("PATH", "FUTURE_KUBERNETES_RUN"), NA, names = TRUE)
  Sys.setenv(PATH = paste0(folder, ":", old[["PATH"]]))
  Sys.unsetenv("FUTURE_KUBERNETES_RUN")
  on.exit({
    future::plan(future::sequential)
    use_cluster(NULL)
    do.call(Sys.setenv, as.list(old[!is.na(old)]))
  })
  code
}

# A laptop of two workers, and a clock to which `hour()` adds one, as when it was asleep.
asleep <- function(code) {
  testthat::skip_if_not(file.exists("/usr/local/lib/future-kubernetes/about.json"), "the image is not built")
  start_bed(2L)
  on.exit(stop_bed())
  hours <- 0
  real <- clock
  testthat::local_mocked_bindings(clock = function() real() + 3600 * hours, .package = "future.kubernetes")
  on_a_laptop({
    plan(kubernetes, workers = 1, cluster = list(release = "check"))
    code(function() hours <<- hours + 1)
  })
}

# A folder on a disk of its own of so many MiB, until the caller ends; NULL without root.
small_disk <- function(mib, frame = parent.frame()) {
  folder <- withr::local_tempdir(.local_envir = frame)
  size <- sprintf("size=%dm", mib)
  if (system2("mount", c("-t", "tmpfs", "-o", size, "none", folder), stdout = FALSE, stderr = FALSE) == 0L) {
    withr::defer(system2("umount", folder), frame)
    folder
  }
}
