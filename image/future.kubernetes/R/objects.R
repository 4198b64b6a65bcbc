# Large objects go once from the session to the broker and once from there to each worker that needs them. In the data
# of a future they are replaced by references to their content.

object_bytes <- 256 * 1024 # smaller ones go with each future
max_references <- 100L # of one future: their hashes are in one line, and the broker limits its length
reference_class <- "kubernetes_object" # image/worker/worker.R has the same word

# The future's data with references in place of its large globals and large elements of `...`, and the objects' hashes.
with_references <- function(stream, data) {
  found <- new.env()
  refer <- function(x) {
    if (length(found) >= max_references || !is_large(x)) {
      return(x)
    }
    # Of the content, at each use: what was changed in place is another object.
    hash <- digest::digest(x, algo = "spookyhash")
    if (!keep_object(stream, hash, x)) {
      return(x)
    }
    found[[hash]] <- TRUE
    structure(list(hash), class = reference_class)
  }
  globals <- data[["core"]][["globals"]]
  if (length(globals) > 0L) {
    kept <- attributes(globals)
    data[["core"]][["globals"]] <- `attributes<-`(lapply(unclass(globals), function(x) {
      if (inherits(x, "DotDotDotList")) `attributes<-`(lapply(unclass(x), refer), attributes(x)) else refer(x)
    }), kept)
  }
  list(data = data, needs = ls(found))
}

is_large <- function(x) utils::object.size(x) >= object_bytes && is_content(x)

# TRUE if a value is nothing but its content: no environment, function or pointer, which mean something only where they
# are. Lists of very many elements are not looked through.
is_content <- function(x, depth = 0L) {
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

# Send an object unless the broker has it; the least recently used ones make room. FALSE if there is no room. `task` is
# only made where the object has to be sent.
keep_object <- function(stream, hash, x, task = packed(x)) {
  known <- stream$objects[[hash]]
  if (is.null(known)) {
    force(task)
    on.exit(if (!is.null(task$file)) unlink(task$file))
    if (!make_object_room(stream, task$size)) {
      return(FALSE)
    }
    say_packed(stream, c("object", "object-file"), hash, task)
    if (!stream$remote) on.exit()
    known <- list(size = task$size, tasks = 0L)
    stream$object_bytes <- stream$object_bytes + task$size
  }
  known$used <- clock()
  stream$objects[[hash]] <- known
  TRUE
}

make_object_room <- function(stream, size) {
  room <- stream$limit / 2
  while (stream$object_bytes + size > room) {
    all <- as.list(stream$objects)
    free <- all[vapply(all, function(known) known$tasks == 0L, NA) & !names(all) %in% stream$files$bundles]
    if (length(free) == 0L) {
      return(FALSE)
    }
    oldest <- names(free)[which.min(vapply(free, function(known) known$used, 0))]
    say(stream, "forget", oldest)
    stream$object_bytes <- stream$object_bytes - free[[oldest]]$size
    rm(list = oldest, envir = stream$objects)
  }
  TRUE
}

# Count the futures under way that need each object: those are not forgotten.
count_needs <- function(stream, needs, by) {
  for (hash in needs) {
    known <- stream$objects[[hash]]
    if (!is.null(known)) {
      known$tasks <- max(0L, known$tasks + by)
      stream$objects[[hash]] <- known
    }
  }
}

# A broker that has restarted, or that misses an object, gets them anew.
forget_objects <- function(stream) {
  stream$objects <- new.env(parent = emptyenv())
  stream$object_bytes <- 0
  stream$libraries <- NULL
  stream$files <- NULL
}
