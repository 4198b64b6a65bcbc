# The life of a worker's R: takes tasks from its agent and sends back what became of them. start.R calls it.
#
#   agent  task SIZE, SIZE bytes          a future as future.kubernetes serialized it
#          file SIZE PATH                 the same in a file, if it is large; R removes it
#          attach 0                       from here on R's own protocol, with an R session at the other end
#          have SIZE, SIZE bytes          text: the answer to `want`, a list of packages or why there is none
#   R      done SIZE, SIZE bytes          the result, serialized
#          value SIZE, SIZE bytes         before it: a large value of the result, serialized, in place of which it has NULL
#          done-file, value-file SIZE PATH the same in a file, if it is large; the agent removes it
#          condition SIZE, SIZE bytes     a condition that the session is to see at once
#          want SIZE, SIZE bytes          text: folder of a package of the session's, or "" for the list of them
#          unread, setup SIZE, SIZE bytes text: the task could not be read, or the plan's setup failed
#          unsent SIZE, SIZE bytes        text: the result could not be serialized

# changed: functions of R that look for the session's packages.
serve <- function(changed) {
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
  # these functions is not changed. Its comparison of the plan that a future brings with the one that was here is kept
  # too, since it is the same for all futures of a plan: a quarter of what is left.
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
    as_before <- function(compare) {
      force(compare)
      known <- list() # two of them: the plan of a future's world is set before it, and the one before it after it
      function(...) {
        two <- list(...)
        for (one in known) if (identical(one$two, two)) {
          return(one$result)
        }
        result <- compare(...)
        known <<- c(known[length(known)], list(list(two = two, result = result)))
        result
      }
    }
    future <- asNamespace("future")
    change <- function(name, with) {
      if (exists(name, envir = future, mode = "function", inherits = FALSE)) {
        unlockBinding(name, future)
        assign(name, with(get(name, envir = future)), envir = future)
        lockBinding(name, future)
      }
    }
    change("diff_connections", at_once_if_same)
    change("diff_devices", at_once_if_same)
    change("all.equal.FutureStrategyList", as_before)
  }, silent = TRUE))

  send <- function(word, bytes) writeBin(c(charToRaw(sprintf("%s %.0f\n", word, length(bytes))), bytes), con)
  # Above this size by way of a file, else the process would need twice the memory of the data.
  large <- 16 * 2^20
  # FALSE, and nothing sent, if it takes no more than `above` bytes.
  send_object <- function(word, x, above = -1) {
    if (utils::object.size(x) < large) {
      bytes <- serialize(x, NULL, xdr = FALSE)
      if (length(bytes) > above) send(word, bytes)
      return(length(bytes) > above)
    }
    path <- tempfile("future-result-")
    whole <- FALSE
    on.exit(if (!whole) unlink(path))
    file <- file(path, "wb")
    tryCatch(serialize(x, file, xdr = FALSE), finally = close(file))
    if (file.size(path) > above) {
      whole <- TRUE
      writeBin(charToRaw(sprintf("%s-file %.0f %s\n", word, file.size(path), path)), con)
    }
    whole
  }

  # A large value that is nothing but its content goes by itself, so that the broker and the session get it once though
  # many futures return it: the value of the result or, of a map's chunk, elements of it. An attribute of the result
  # says which: 0 or their indices.
  is_content <- function(x, depth = 0L) { # as in image/future.kubernetes/R/objects.R
    if (!typeof(x) %in% c("logical", "integer", "double", "complex", "character", "raw", "list", "NULL", "S4")) {
      return(FALSE)
    }
    inner <- attributes(x)
    if (is.list(x)) inner <- c(inner, unclass(x))
    if (length(inner) > 10000L || depth > 10L) {
      return(FALSE)
    }
    for (part in inner) if (!is_content(part, depth + 1L)) {
      return(FALSE)
    }
    TRUE
  }
  value_bytes <- 256 * 1024 # image/common/blob.py: smaller ones are in the broker's memory
  send_value <- function(x) {
    utils::object.size(x) > value_bytes && is_content(x) && send_object("value", x, above = value_bytes)
  }
  send_result <- function(result) {
    value <- if (inherits(result, "FutureResult")) result[["value"]]
    if (!is.null(value) && utils::object.size(value) > value_bytes) {
      sent <- integer()
      if (is.list(value) && !is.object(value)) {
        for (i in seq_along(value)) if (length(sent) < 100L && send_value(value[[i]])) sent <- c(sent, i)
      }
      if (length(sent) > 0L) {
        result[["value"]][sent] <- list(NULL)
      } else if (send_value(value)) {
        sent <- 0L
        result["value"] <- list(NULL)
      }
      if (length(sent) > 0L) attr(result, "kubernetes_values") <- sent
    }
    send_object("done", result)
  }
  # Two values, one after the other: the session's world, in which R must find the packages that the second refers to,
  # and the future.
  read_task <- function(words) {
    if (words[1L] == "task") {
      task <- rawConnection(readBin(con, "raw", as.numeric(words[2L])))
      on.exit(close(task))
    } else {
      path <- paste(words[-(1:2)], collapse = " ")
      task <- file(path, "rb")
      on.exit({
        close(task)
        unlink(path)
      })
    }
    session <- unserialize(task)
    enter(session)
    failed <- tryCatch({
      run_setup(session$setup)
      NULL
    }, error = identity)
    if (!is.null(failed)) stop(structure(failed, class = c("setup", class(failed))))
    unserialize(task)
  }

  # A condition to be seen at once goes through this option's function: see launch() in future.kubernetes.
  options(future.kubernetes.condition = function(condition) send("condition", serialize(condition, NULL, xdr = FALSE)))

  # Large objects are in files named by their content, which the agent has made. Those that were read are kept, the last
  # used one at the end, within a bound.
  objects <- list()
  max_bytes <- as.numeric(Sys.getenv("FUTURE_KUBERNETES_OBJECT_BYTES", "1e9"))
  held <- 0
  read_object <- function(hash) {
    path <- file.path(Sys.getenv("FUTURE_KUBERNETES_OBJECTS"), hash)
    if (!file.exists(path)) stop("the disk of the worker's pod is full: no room for its large objects and files")
    file <- file(path, "rb")
    on.exit(close(file))
    unserialize(file)
  }
  object <- function(hash) {
    known <- objects[[hash]]
    if (!is.null(known)) {
      objects <<- c(objects[names(objects) != hash], objects[hash])
      return(known$value)
    }
    value <- read_object(hash)
    size <- as.numeric(utils::object.size(value))
    if (size <= max_bytes) {
      while (held + size > max_bytes) {
        held <<- held - objects[[1L]]$size
        objects[[1L]] <<- NULL
      }
      objects[[hash]] <<- list(value = value, size = size)
      held <<- held + size
    }
    value
  }
  resolve <- function(x) {
    if (inherits(x, "kubernetes_object")) {
      object(unclass(x)[[1L]])
    } else if (inherits(x, "DotDotDotList")) {
      `attributes<-`(lapply(unclass(x), resolve), attributes(x))
    } else {
      x
    }
  }
  dereference <- function(data) {
    globals <- data[["core"]][["globals"]]
    if (length(globals) > 0L) {
      data[["core"]][["globals"]] <- `attributes<-`(lapply(unclass(globals), resolve), attributes(globals))
    }
    data
  }

  ask <- function(folder) {
    send("want", charToRaw(folder))
    words <- strsplit(readLines(con, 1L), " ", fixed = TRUE)[[1L]]
    rawToChar(readBin(con, "raw", as.numeric(words[2L])))
  }
  library_paths <- session_packages(ask, changed)
  project <- project_files()
  run_setup <- session_setup()

  # Parts of the session that hold here: its variables, its locale, its libraries and its folder.
  own <- list(env = Sys.getenv(names = TRUE), locale = Sys.getlocale(), wd = getwd(), libraries = .libPaths())
  world <- list(env = character(), locale = own$locale, libraries = list(own$libraries))
  enter <- function(new) {
    if (!identical(new$env, world$env)) {
      for (name in setdiff(names(world$env), names(new$env))) {
        if (name %in% names(own$env)) do.call(Sys.setenv, as.list(own$env[name])) else Sys.unsetenv(name)
      }
      if (length(new$env)) do.call(Sys.setenv, as.list(new$env))
    }
    if (!identical(new$locale, world$locale)) {
      for (part in strsplit(new$locale, ";", fixed = TRUE)[[1L]]) {
        part <- strsplit(part, "=", fixed = TRUE)[[1L]]
        if (part[1L] %in% c("LC_CTYPE", "LC_COLLATE", "LC_MONETARY", "LC_TIME")) {
          suppressWarnings(Sys.setlocale(part[1L], part[2L]))
        }
      }
    }
    if (!identical(new$libraries, world$libraries)) {
      .libPaths(unique(c(library_paths(new$libraries), own$libraries)))
    }
    world <<- new
    if (length(new$files)) {
      here <- project$enter(new$files)
    } else {
      project$leave()
      here <- if (dir.exists(new$wd)) new$wd else own$wd
    }
    if (!identical(getwd(), here)) try(setwd(here), silent = TRUE)
  }

  run <- function(data) {
    future <- asNamespace("future")
    rm(list = ls(globalenv(), all.names = TRUE), envir = globalenv())
    extra <- data[["kubernetes"]]
    data[["kubernetes"]] <- NULL
    evaluate <- if (is.null(extra[["evaluate"]])) future[["evalFuture"]] else extra[["evaluate"]]
    result <- evaluate(data)
    if (isTRUE(extra[["gc"]])) gc()
    if (length(wrote <- project$written())) attr(result, "kubernetes_wrote") <- wrote
    result
  }

  repeat {
    line <- readLines(con, 1L)
    if (length(line) == 0L) quit("no")
    words <- strsplit(line, " ", fixed = TRUE)[[1L]]
    if (words[1L] == "attach") break
    data <- tryCatch(dereference(read_task(words)), error = identity)
    if (inherits(data, "error")) {
      send(if (inherits(data, "setup")) "setup" else "unread", charToRaw(conditionMessage(data)))
      next
    }
    result <- run(data)
    data <- NULL
    failed <- tryCatch({
      send_result(result)
      NULL
    }, error = identity)
    result <- NULL
    if (!is.null(failed)) send("unsent", charToRaw(conditionMessage(failed)))
  }
  parallel:::workLoop(structure(list(con = con), class = "SOCK0node"))
}
