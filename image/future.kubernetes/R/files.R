# The files of the session's working directory, for its futures to read. They go to the workers as large objects do:
# bundles of pieces of files, in the order in which a worker's agent unpacks them. image/worker/files.py has their form.
# The first bundles have all files. A later one has those that have changed since, and the names of those removed.

file_bundle_bytes <- 16 * 2^20
max_files <- 10000L
max_file_bundles <- 40L
max_watched <- 200L
never_sent <- c("renv/library", "renv/staging", "packrat/lib*", "node_modules", "__pycache__", "*_cache/")

# The session's folder, as a worker needs it: its path, and the bundles that it consists of. NULL where the
# workers have the folder itself, or where it is none of a project.
session_files <- function(stream) {
  folder <- getwd()
  state <- stream$files
  if (is.null(state) || !identical(state$folder, folder)) {
    state <- list(folder = folder, sent = NULL, bundles = character(), bytes = 0, due = 0)
  }
  if (is.null(folder) || !is_project(folder)) {
    stream$files <- NULL # so that its futures need none of those that were sent before
    return(NULL)
  }
  now <- clock()
  # A file that is added or removed changes its folder's time. Of many files not each one's own time is looked at for
  # each future: the folder is looked through again after twenty times as long as that takes, a second at the latest.
  if (now >= state$due || !identical(times_of(state$watched), state$times)) {
    found <- look_through(folder, state$odd)
    few <- !found$too_many && nrow(found$files) <= max_watched
    state$watched <- found$dirs
    state$times <- found$times
    if (few && nrow(found$files)) {
      state$watched <- c(state$watched, file.path(folder, found$files$name))
      state$times <- c(state$times, found$files$mtime)
    }
    state$left_out <- found$left_out
    state$odd <- found$odd
    known <- all(vapply(state$bundles, known_object, NA, stream = stream))
    if (!known || !same_files(found$files, state$sent)) state <- send_files(stream, state, found$files, known)
    took <- clock() - now
    # Where there are too many to send any, as in a whole home, that only ends by a change of the folder itself, of
    # .futureignore, or deeper down, which may be found later.
    state$due <- clock() + if (few) 1 else min(if (found$too_many) 30 else 1, 20 * took)
    tell_left_out(stream, folder, found)
  }
  stream$files <- state
  if (length(state$bundles)) list(folder = folder, bundles = state$bundles)
}

times_of <- function(paths) as.numeric(file.mtime(paths))

known_object <- function(hash, stream) !is.null(stream$objects[[hash]])

# A folder of the user's own: what the image has, the workers have too, and what is in /shared as well.
is_project <- function(folder) {
  folder != "/" && file.access(folder, 2L) == 0L && folder != dirname(tempdir()) && files_limit() > 0 &&
    !startsWith(paste0(folder, "/"), "/shared/")
}

files_limit <- function() {
  limit <- getOption("future.kubernetes.filesMB", 100)
  if (!is.numeric(limit) || length(limit) != 1L || is.na(limit)) {
    stop(kubernetes_error("Globals", sprintf(paste(
      "The option future.kubernetes.filesMB is %s; it is a number of megabytes, or 0 to send no files:",
      "options(future.kubernetes.filesMB = 100)"
    ), deparse(limit)[1L]), class = "FutureError"))
  }
  limit * 1e6
}

# The files below a folder by name, and what is left out: hidden ones, those that .futureignore names, devices, pipes
# and sockets, and above the limit the largest ones. Links to files are taken for the files. `odd` is that of the last
# time, see odd_files().
look_through <- function(folder, odd = NULL) {
  ignored <- ignored_names(folder)
  libraries <- .libPaths()
  level <- ""
  dirs <- folder
  times <- times_of(folder)
  ignore_time <- times_of(file.path(folder, ".futureignore"))
  all <- NULL
  too_many <- FALSE
  while (length(level) && !too_many) {
    room <- max_files - NROW(all) - length(dirs)
    names <- list_level(folder, level, ignored, room)
    too_many <- length(names) > room
    if (too_many) break # before their times and sizes, which take most of the time
    paths <- file.path(folder, names)
    info <- file.info(paths, extra_cols = FALSE)
    known <- !is.na(info$isdir)
    deeper <- known & info$isdir & !paths %in% libraries
    # A link to a folder could lead around in a circle.
    deeper[deeper] <- !nzchar(Sys.readlink(paths[deeper]))
    here <- known & !info$isdir & file.access(paths, 4L) == 0L
    all <- rbind(all, data.frame(
      name = names[here], size = info$size[here], mtime = as.numeric(info$mtime[here]),
      mode = as.integer(info$mode[here])
    ))
    level <- names[deeper]
    dirs <- c(dirs, paths[deeper])
    times <- c(times, as.numeric(info$mtime[deeper])) # of before they are listed, so that no change is missed
  }
  left_out <- not_sent <- character()
  if (too_many) {
    all <- no_files
    dirs <- c(folder, file.path(folder, ".futureignore"))
    times <- c(times[1L], ignore_time)
  } else {
    odd <- odd_files(folder, all, odd)
    is_odd <- keys_of(all) %in% names(odd)[odd]
    not_sent <- all$name[is_odd]
    all <- all[!is_odd, ]
    large <- order(all$size)
    over <- large[cumsum(all$size[large]) > files_limit()]
    left_out <- all$name[rev(over)]
    if (length(over)) all <- all[-over, ]
  }
  list(
    files = all, dirs = dirs, times = times, left_out = left_out, not_sent = not_sent, odd = odd, too_many = too_many
  )
}

no_files <- data.frame(name = character(), size = numeric(), mtime = numeric(), mode = integer())

# Names of what is in the folders `level` below a folder, less those that are ignored; not all of them above `room`.
list_level <- function(folder, level, ignored, room) {
  found <- character()
  while (length(level) && length(found) <= room) {
    some <- utils::head(level, 20L)
    level <- level[-seq_along(some)]
    names <- as.character(unlist(lapply(some, function(dir) {
      names <- list.files(file.path(folder, dir))
      if (nzchar(dir)) file.path(dir, names) else names
    })))
    found <- c(found, names[!ignored(names)])
  }
  found
}

# TRUE for devices, pipes and sockets among the empty ones of `files`, by their keys. R cannot tell them from empty
# files, so that a shell does: it is asked only for those that are not `known` from the last time.
odd_files <- function(folder, files, known = NULL) {
  files <- files[files$size == 0 & !grepl("\n", files$name, fixed = TRUE, useBytes = TRUE), ]
  keys <- keys_of(files)
  new <- !keys %in% names(known)
  if (any(new)) {
    test <- "while IFS= read -r x; do if [ -f \"$x\" ] || [ ! -e \"$x\" ]; then echo file; else echo odd; fi; done"
    test <- paste("sh -c", shQuote(test)) # R puts the input before it
    said <- tryCatch(system(test, intern = TRUE, input = file.path(folder, files$name[new])), error = function(e) NULL)
    if (length(said) == sum(new)) known <- c(known, `names<-`(said == "odd", keys[new]))
  }
  known[names(known) %in% keys]
}

keys_of <- function(files) paste(sprintf("%.6f", files$mtime), files$name)

# TRUE for names that stay: of the patterns of .futureignore, one with a slash is of a path, one without of any part.
ignored_names <- function(folder) {
  file <- file.path(folder, ".futureignore")
  lines <- if (file.exists(file)) trimws(readLines(file, warn = FALSE)) else character()
  patterns <- sub("/$", "", c(never_sent, lines[nzchar(lines) & !startsWith(lines, "#")]))
  of_path <- grepl("/", patterns, fixed = TRUE)
  expressions <- utils::glob2rx(sub("^/", "", patterns))
  function(names) {
    ignored <- rep(FALSE, length(names))
    for (i in seq_along(expressions)) {
      ignored <- ignored | grepl(expressions[i], if (of_path[i]) names else basename(names), useBytes = TRUE)
    }
    ignored
  }
}

same_files <- function(new, old) {
  identical(new$name, old$name) && identical(new$size, old$size) && identical(new$mtime, old$mtime)
}

# Send what has changed if the bundles of before are `known` to the broker; all of it else, and once that is no more
# than what has been sent for changes.
send_files <- function(stream, state, files, known) {
  old <- state$sent
  known <- known && !is.null(old) # of an attempt that failed a part may be there
  changed <- files
  removed <- character()
  if (known) {
    before <- match(files$name, old$name)
    changed <- files[is.na(before) | files$size != old$size[before] | files$mtime != old$mtime[before], ]
    removed <- setdiff(old$name, files$name)
  }
  pieces <- file_pieces(changed)
  if (length(state$bundles) + max(pieces$bundle, 1L) > max_file_bundles || state$bytes > 2 * sum(files$size) + 1e6) {
    known <- FALSE
    changed <- files
    removed <- character()
    pieces <- file_pieces(files)
  }
  if (!known) state[c("bundles", "bytes")] <- list(character(), 0)
  state["sent"] <- list(NULL)
  state$due <- 0 # what fails in the following is tried again by the next future
  stream$files <- state
  for (i in seq_len(max(pieces$bundle, 1L))) {
    serial <- length(state$bundles) # one that is the same as an earlier one is applied again all the same
    content <- list(state$folder, serial, if (i == 1L) removed, changed, pieces[pieces$bundle == i, ])
    # By times and sizes, as a change is found: to read the files for it would take as long as to send them.
    hash <- paste0("files", digest::digest(content, algo = "spookyhash"))
    if (!keep_object(stream, hash, task = do.call(packed_files, content))) {
      stop(kubernetes_error("Globals", sprintf(paste(
        "The files of %s are %.0f MB, and the scheduler's pod has no room for them: name those that futures do not",
        "need in %s, or set options(future.kubernetes.filesMB = 0) to send none"
      ), state$folder, sum(files$size) / 1e6, file.path(state$folder, ".futureignore")), class = "FutureError"))
    }
    state$bundles <- c(state$bundles, hash)
    stream$files <- state # what is there so far makes no room for the next
  }
  state$bytes <- state$bytes + sum(changed$size)
  state$sent <- files
  state
}

# Files by row, cut into pieces, and the bundle that each piece goes with.
file_pieces <- function(files) {
  count <- pmax(1, ceiling(files$size / file_bundle_bytes))
  pieces <- data.frame(row = rep(seq_len(nrow(files)), count), at = (sequence(count) - 1) * file_bundle_bytes)
  pieces$size <- pmin(file_bundle_bytes, files$size[pieces$row] - pieces$at)
  pieces$bundle <- bundle_of(pieces$size)
  pieces
}

bundle_of <- function(sizes) {
  bundle <- 1L
  sum <- 0
  vapply(sizes, function(size) {
    if (sum > 0 && sum + size > file_bundle_bytes) {
      bundle <<- bundle + 1L
      sum <<- 0
    }
    sum <<- sum + size
    bundle
  }, 0L)
}

# A bundle: in memory, or above 256 KiB in a file that the broker takes over. It has what is there of each piece when it
# is read.
packed_files <- function(folder, serial, removed, files, pieces) {
  record <- function(..., name) {
    name <- charToRaw(name)
    c(charToRaw(paste0(paste(c(..., length(name)), collapse = " "), "\n")), name)
  }
  file <- if (sum(pieces$size) > object_bytes) scratch_file("future-files-")
  con <- if (is.null(file)) rawConnection(raw(), "wb") else file(file, "wb")
  on.exit({
    try(close(con), silent = TRUE)
    if (!is.null(file)) unlink(file)
  })
  gone <- lapply(removed, function(name) record("remove", name = name))
  begin <- c(record("folder", serial, name = folder), unlist(gone))
  writeBin(begin, con)
  size <- length(begin)
  mtime <- sprintf("%.0f", files$mtime * 1e6)
  for (i in seq_len(nrow(pieces))) {
    row <- pieces$row[i]
    at <- sprintf("%.0f", pieces$at[i])
    bytes <- read_piece(file.path(folder, files$name[row]), pieces$at[i], pieces$size[i])
    head <- record("file", length(bytes), at, files$mode[row], mtime[row], name = files$name[row])
    suppressWarnings({ # of a full disk, which is an error below
      writeBin(head, con)
      writeBin(bytes, con) # by itself: c() would copy it
    })
    size <- size + length(head) + length(bytes)
  }
  if (is.null(file)) {
    bytes <- rawConnectionValue(con)
    return(list(size = length(bytes), bytes = bytes))
  }
  tryCatch(close_whole(con, file, size), error = function(e) {
    stop(kubernetes_error("Globals", sprintf(paste(
      "The files of %s cannot be sent: %s. Make room there, or name those that futures do not need in %s, or set",
      "options(future.kubernetes.filesMB = 0) to send none"
    ), folder, conditionMessage(e), file.path(folder, ".futureignore")), class = "FutureError"))
  })
  on.exit()
  list(size = file.size(file), file = normalizePath(file))
}

read_piece <- function(path, at, size) {
  # Never opened: a device or a pipe, which would wait.
  if (size == 0) {
    return(raw())
  }
  file <- tryCatch(suppressWarnings(file(path, "rb")), error = function(e) NULL)
  if (is.null(file)) {
    return(raw()) # removed since
  }
  on.exit(close(file))
  if (at > 0) seek(file, at)
  readBin(file, "raw", size)
}

# Say once for a folder what its futures will not find.
tell_left_out <- function(stream, folder, found) {
  if (length(found$not_sent) && !folder %in% stream$told_of_odd) {
    stream$told_of_odd <- c(stream$told_of_odd, folder)
    message(sprintf(
      "Futures do not find %s of %s: only folders and files are sent, and no device, pipe or socket",
      some_names(found$not_sent), folder
    ))
  }
  if (!found$too_many && !length(found$left_out) || folder %in% stream$told_of_files) {
    return(invisible())
  }
  stream$told_of_files <- c(stream$told_of_files, folder)
  message(sprintf(
    "Futures find %s of %s: %s. Name in %s what they do not need, work in a folder of the project, or put data into %s",
    if (found$too_many) "no files" else "not all files", folder,
    if (found$too_many) {
      sprintf("it has more than %d files and folders", max_files)
    } else {
      sprintf("%s %s above %.0f MB together", some_names(found$left_out), ngettext(length(found$left_out), "is", "are"),
        files_limit() / 1e6)
    },
    file.path(folder, ".futureignore"), "/shared"
  ))
}

some_names <- function(names) {
  text <- paste(utils::head(names, 3L), collapse = ", ")
  if (length(names) > 3L) sprintf("%s and %d more", text, length(names) - 3L) else text
}

# Said once for each plan: what a future has written stays on its worker, and where those files are looked for that it
# did not find.
tell_of_files <- function(stream, future, result) {
  wrote <- attr(result, "kubernetes_wrote")
  if (length(wrote) && !isTRUE(stream$told_of_writing)) {
    stream$told_of_writing <- TRUE
    message(sprintf(paste(
      "Future %s has written %s into a worker's copy of %s. It stays on that worker: return what you need as the",
      "future's value, or write it into /shared"
    ), label_of(future), some_names(wrote), stream$files$folder))
  }
  if (isTRUE(stream$told_of_missing)) {
    return(invisible())
  }
  for (known in result[["conditions"]]) {
    condition <- known[["condition"]]
    if (!inherits(condition, c("error", "warning")) || inherits(condition, "KubernetesError")) next
    if (grepl("cannot open|No such file|does not exist|cannot find", conditionMessage(condition))) {
      stream$told_of_missing <- TRUE
      message(sprintf(paste(
        "Where future %s looks for files: %s, and /shared where the release has it. Hidden files%s and those elsewhere",
        "stay in the scheduler's pod"
      ), label_of(future), copied_words(stream), left_words(stream)))
      return(invisible())
    }
  }
}

copied_words <- function(stream) {
  if (length(stream$files$bundles)) paste("a copy of", stream$files$folder) else "an empty folder of its worker"
}

left_words <- function(stream) {
  left <- c(if (file.exists(".futureignore")) "what .futureignore names", some_names(stream$files$left_out))
  left <- left[nzchar(left)]
  if (length(left)) paste0(", ", paste(left, collapse = ", ")) else ""
}
