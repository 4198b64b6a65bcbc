# A release that is reached from another machine: plan(kubernetes, cluster = ). One `kubectl port-forward` to the
# scheduler's pod carries all connections; it is started again whenever it has ended.

broker_port <- 8784L # of the pod's loopback interface: image/common/wire.py
cluster_fields <- c("release", "namespace", "context", "kubeconfig")

# The release that this session uses, NULL in a session of a scheduler pod.
target <- new.env(parent = emptyenv())

#' Use a release from another machine
#'
#' `plan(kubernetes, cluster = )` runs the futures of an R session on your own machine on the workers of a release.
#'
#' @section What it needs:
#' The package on this machine, `kubectl`, and the right to forward a port to the pods of the namespace. For a stack's
#' name also the `pulumi` command, a login to its backend, and the stack's folder as working directory. It works on
#' Linux, macOS and in WSL.
#'
#' @section How it connects:
#' It starts `kubectl port-forward` to one port of the scheduler's pod, and starts it again whenever it has ended, as
#' after a restart of the pod or while the machine slept. Futures in flight go on, and their results wait in the pod for
#' a day. While nothing of this session waits or runs there, its workers are given back half a minute after the
#' connection was lost. Who may forward a port to the scheduler's pod may use the workers, without the IDE's password.
#'
#' @section What a future sees:
#' The same as from a session in the pod, see [kubernetes]. Packages of this machine travel where it has the workers'
#' version of R (such as 4.6) and their platform, or have no compiled code. Others that came from a repository such as
#' CRAN are installed in the scheduler's pod when a future needs them. A message says at the beginning what differs. A
#' package is sent when this session waits for a future or looks at one. Environment variables count as set by the
#' session if they were changed since this package was loaded, or are in `~/.Renviron`.
#'
#' @examples
#' # By the name of a stack, in its folder. By its release, on any cluster that kubectl reaches:
#' # cluster = list(release = "future-dev", namespace = "future-dev", context = "kind-kind")
#' if (nzchar(Sys.which("pulumi")) && file.exists("Pulumi.yaml")) {
#'   plan(kubernetes, workers = c(1, 40), cluster = "gke-team")
#' }
#' @name kubernetes_cluster
NULL

# Choose the release of the plans and requests that follow.
use_cluster <- function(cluster) {
  if (is.null(cluster)) {
    if (!is.null(target$command)) end_forward()
    target$command <- target$about <- target$cluster <- target$session <- NULL
    return(invisible())
  }
  if (identical(cluster, target$cluster)) {
    return(invisible())
  }
  if (.Platform$OS.type != "unix") {
    stop(kubernetes_error("Cluster", "'cluster' works on Linux, macOS and in WSL; on Windows run R in WSL"))
  }
  command <- if (is.list(cluster)) command_of_release(cluster) else command_of_stack(cluster)
  end_forward()
  target$command <- command
  target$cluster <- NULL
  # Below 0, and drawn without the user's random numbers: such a name ends in random digits.
  drawn <- basename(tempfile(""))
  target$session <- -(1L + strtoi(substring(drawn, nchar(drawn) - 6L), 16L))
  good <- FALSE
  on.exit(if (!good) use_cluster(NULL))
  compare_with_workers()
  target$cluster <- cluster
  good <- TRUE
}

# The number by which the broker knows this session.
session_id <- function() if (remote_session()) target$session else Sys.getpid()

remote_session <- function() !is.null(target$command)

command_of_release <- function(cluster) {
  bad <- setdiff(names(cluster), cluster_fields)
  given <- vapply(cluster, function(x) is.character(x) && length(x) == 1L && !is.na(x) && nzchar(x), NA)
  if (length(bad) || is.null(names(cluster)) || !all(given) || is.null(cluster$release)) {
    stop(kubernetes_error(
      "Cluster", "'cluster' is ", paste(deparse(cluster), collapse = ""), "; it is the name of a stack, or a list of ",
      "texts with 'release' and any of 'namespace', 'context' and 'kubeconfig', as in ",
      "cluster = list(release = \"future-dev\", namespace = \"future-dev\", context = \"kind-kind\")"
    ))
  }
  options <- intersect(c("kubeconfig", "context", "namespace"), names(cluster))
  paste(c("kubectl", sprintf("--%s=%s", options, shQuote(unlist(cluster[options]))), "port-forward",
    shQuote(paste0("deployment/", cluster$release, "-scheduler"))), collapse = " ")
}

# The stack's output `portForward` is a command that can be pasted as it stands; only its ports are others.
command_of_stack <- function(stack) {
  if (!is.character(stack) || length(stack) != 1L || is.na(stack) || !nzchar(stack)) {
    return(command_of_release(list(stack)))
  }
  if (!nzchar(Sys.which("pulumi"))) {
    stop(kubernetes_error(
      "Cluster", "The stack '", stack, "' cannot be looked up: the command pulumi is not on this machine's PATH. ",
      "Install it, or name the release: cluster = list(release = , namespace = , context = )"
    ))
  }
  said <- suppressWarnings(system2(
    "pulumi", c("stack", "output", "portForward", "--stack", shQuote(stack), "--non-interactive"),
    stdout = TRUE, stderr = TRUE
  ))
  if (!is.null(attr(said, "status")) || !any(grepl(" port-forward ", said))) {
    stop(kubernetes_error(
      "Cluster", "The stack '", stack, "' has no output 'portForward'; pulumi says: ", paste(said, collapse = " "),
      ". Run R in the stack's folder, and see 'pulumi stack ls'"
    ))
  }
  command <- utils::tail(grep(" port-forward ", said, value = TRUE), 1L)
  sub(" +[0-9]+:[0-9]+ *$", "", sub("service/", "deployment/", command))
}

# The local port of a forward that runs.
forwarded_port <- function() {
  if (is.null(target$pid) || target$owner != Sys.getpid() || !tools::pskill(target$pid, 0L)) start_forward()
  target$port
}

start_forward <- function() {
  end_forward()
  log <- tempfile("port-forward-")
  command <- sprintf("exec %s :%d </dev/null >%s 2>&1 & echo $!", target$command, broker_port, shQuote(log))
  target$pid <- as.integer(system(command, intern = TRUE))
  target$owner <- Sys.getpid()
  target$log <- log
  begin <- clock()
  repeat {
    said <- if (file.exists(log)) readLines(log, warn = FALSE) else character()
    port <- sub("^Forwarding from 127[.]0[.]0[.]1:([0-9]+) .*", "\\1", grep("^Forwarding from 127", said, value = TRUE))
    if (length(port)) break
    if (!tools::pskill(target$pid, 0L) || clock() - begin > 30) {
      end_forward()
      stop(forward_error(paste(said, collapse = " ")))
    }
    Sys.sleep(0.05)
  }
  target$port <- as.integer(port[1L])
}

end_forward <- function() {
  if (!is.null(target$pid) && identical(target$owner, Sys.getpid())) {
    tools::pskill(target$pid)
    unlink(target$log)
  }
  target$pid <- NULL
}

forward_error <- function(said) {
  kind <- if (grepl("forbidden", said)) "Permission" else if (grepl("not found", said)) "Unavailable" else "Unreachable"
  fix <- switch(kind,
    Permission = paste(
      "You need the right to 'create' 'pods/portforward' and to 'get' and 'list' pods and deployments in the",
      "namespace: ask for the role 'edit' there"
    ),
    Unavailable = "Look with 'kubectl get deployments --all-namespaces' for one whose name ends in -scheduler",
    "Check the cluster with 'kubectl get pods', and that your login has not expired"
  )
  if (!nzchar(said)) said <- "it says nothing"
  kubernetes_error(kind, "The release is not reached by '", target$command, "': ", said, ". ", fix)
}

# Say before the first future what of this session the workers have in another version, or cannot have.
compare_with_workers <- function() {
  about <- jsonlite::fromJSON(ask("about"), simplifyVector = FALSE)
  target$about <- about
  series <- function(version) paste(unlist(package_version(version))[1:2], collapse = ".")
  target$same_r <- series(about$r) == series(as.character(getRversion()))
  target$same_platform <- target$same_r && identical(about$platform, R.version$platform)
  if (!target$same_r) {
    message(sprintf(paste(
      "The workers run R %s and this session %s: packages that the release's image lacks are installed in the",
      "scheduler's pod. Use R %s here for these very ones"
    ), about$r, getRversion(), series(about$r)))
  }
  attached <- setdiff(sub("^package:", "", grep("^package:", search(), value = TRUE)), base_packages())
  theirs <- vapply(attached, function(name) if (is.null(about$packages[[name]])) "" else about$packages[[name]], "")
  ours <- vapply(attached, function(name) as.character(utils::packageVersion(name)), "")
  other <- nzchar(theirs) & theirs != ours & (!target$same_platform | attached %in% never_remote)
  if (any(other)) {
    message("Attached packages that the workers have in another version: ", paste(sprintf(
      "%s %s (here %s)", attached[other], theirs[other], ours[other]
    ), collapse = ", "))
  }
  lacking <- !nzchar(theirs) & !vapply(attached, function(name) travels(name) || in_repository(name), NA)
  if (any(lacking)) {
    message(sprintf(paste(
      "Attached packages that futures will not find: %s. Add them to 'rPackages' of the stack",
      "and run 'pulumi up'"
    ), paste(attached[lacking], collapse = ", ")))
  }
}

base_packages <- function() rownames(utils::installed.packages(.Library, priority = "base"))

# TRUE if the workers can use this machine's installation of a package.
travels <- function(name, folder = find.package(name)) {
  target$same_platform || (target$same_r && !dir.exists(file.path(folder, "libs")))
}

description_of <- function(folder) readRDS(file.path(folder, "Meta", "package.rds"))$DESCRIPTION

# TRUE if it came from a repository such as CRAN, by its name only.
in_repository <- function(name, folder = find.package(name)) {
  description <- description_of(folder)
  !is.na(description["Repository"]) || !is.na(description["biocViews"])
}

# Packages of this machine for the workers: those that the image lacks, and on the same platform those that it has in
# another version. A character vector of folders, in the order in which R looks for them.
remote_packages <- function() {
  folders <- list.dirs(c(development_library(), .libPaths()), recursive = FALSE)
  folders <- folders[file.exists(file.path(folders, "Meta", "package.rds")) & !duplicated(basename(folders))]
  keep <- vapply(folders, function(folder) {
    description <- description_of(folder)
    theirs <- target$about$packages[[basename(folder)]]
    !identical(unname(description["Priority"]), "base") && !basename(folder) %in% never_remote &&
      (is.null(theirs) || (target$same_platform && theirs != description[["Version"]]))
  }, NA)
  folders[keep]
}

# Packages that each worker's R has loaded before it knows of any session.
never_remote <- c("future", "parallelly", "globals", "listenv", "digest", "future.kubernetes")

# Answer a worker that looks for a package of this machine, and waits: whatever goes wrong is an answer too.
send_package <- function(stream, folder) {
  name <- basename(folder)
  where <- utils::URLencode(folder, reserved = TRUE)
  refuse <- function(...) {
    reason <- charToRaw(enc2utf8(paste0(...)))
    say(stream, "no-package", length(reason), where, body = reason)
  }
  if (!file.exists(file.path(folder, "Meta", "package.rds"))) {
    return(refuse("it is not in ", dirname(folder), " of this machine any more"))
  }
  if (!travels(name, folder)) {
    if (in_repository(name, folder)) {
      message(sprintf("Installing the package '%s' in the scheduler's pod, for the workers' R and platform", name))
      return(say(stream, "build", nchar(name), where, body = charToRaw(name)))
    }
    return(refuse(sprintf(paste(
      "this machine has it for R %s on %s, the workers run R %s on %s, and it is from no repository. Use an image that",
      "has it (the stack's setting 'image')"
    ), getRversion(), R.version$platform, target$about$r, target$about$platform)))
  }
  archive <- scratch_file("future-package-")
  on.exit(unlink(archive))
  failed <- tryCatch(pack_package(folder, archive), error = conditionMessage)
  if (!is.null(failed)) {
    return(refuse("this machine could not pack it: ", failed))
  }
  say(stream, "package", sprintf("%.0f", file.size(archive)), where, file = archive)
}

# NULL, or an error.
pack_package <- function(folder, archive) {
  old <- setwd(dirname(folder))
  on.exit(setwd(old))
  files <- list.files(basename(folder), all.files = TRUE, recursive = TRUE)
  sizes <- file.size(file.path(folder, files))
  suppressWarnings(utils::tar(archive, basename(folder), compression = "none", tar = "internal"))
  # R only warns of a full disk, in the words of the session's language.
  if (file.size(archive) < sum(512 + 512 * ceiling(sizes / 512)) + 1024) {
    stop("the disk of ", dirname(archive), " is full, or a file cannot be read")
  }
  NULL
}
