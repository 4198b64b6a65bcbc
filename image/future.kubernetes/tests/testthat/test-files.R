# The files that a session sends. Those that a worker finds are tested on a cluster, except for what is here.

# A plan's stream that sends nothing, and a clock that only the test moves.
sent_files <- function(env = parent.frame()) {
  withr::local_options(future.kubernetes.filesMB = 1, .local_envir = env)
  withr::local_dir(withr::local_tempdir(.local_envir = env), .local_envir = env)
  stream <- new.env()
  stream$objects <- new.env()
  stream$time <- 100
  stream$looks <- 0
  stream$slow <- 0
  look <- look_through
  testthat::local_mocked_bindings(
    clock = function() stream$time,
    look_through = function(...) {
      stream$looks <- stream$looks + 1
      found <- look(...)
      stream$time <- stream$time + stream$slow
      found
    },
    keep_object = function(stream, hash, ...) {
      stream$objects[[hash]] <- TRUE
      TRUE
    },
    .package = "future.kubernetes", .env = env
  )
  stream
}

make_files <- function(n) for (i in seq_len(n)) writeLines("one", sprintf("f%d.txt", i))

test_that("a change is sent at once up to 200 files, and above them a second later however long a look takes", {
  stream <- sent_files()
  bundles <- function(after) {
    stream$time <- stream$time + after
    length(session_files(stream)$bundles)
  }
  make_files(200L)
  expect_identical(bundles(0), 1L)
  writeLines("other", "f7.txt")
  expect_identical(bundles(0), 2L)
  make_files(201L) # which also changes the folder's own time
  for (slow in c(0, 0.01, 0.2, 5)) {
    stream$slow <- slow
    before <- bundles(2)
    writeLines(strrep("x", 10 * (slow + 1)), "f7.txt")
    looks <- stream$looks
    if (slow > 0) {
      expect_identical(bundles(min(0.9, 19 * slow)), before)
      expect_identical(stream$looks, looks, info = "one look serves the futures of the time after it")
    }
    expect_identical(bundles(0.101), before + 1L)
  }
})

test_that("a future finds a change among many files that is a second old", {
  use_bed()
  withr::local_options(future.kubernetes.filesMB = 1)
  withr::local_dir(withr::local_tempdir())
  make_files(300L)
  plan(kubernetes, workers = 1)
  read <- function() value(future(readLines("f7.txt")))
  expect_identical(read(), "one")
  for (text in c("two", "three", "four")) {
    writeLines(text, "f7.txt")
    Sys.sleep(1)
    expect_identical(read(), text)
  }
})

test_that("devices, pipes and sockets are left out and named once, and empty files are sent", {
  skip_on_os("windows")
  stream <- sent_files()
  writeLines("text", "a.txt")
  file.create("empty", "two words", "tab\tb")
  system("mkfifo pipe p\u00efpe") # not of ASCII only
  file.symlink("/dev/zero", "zero")
  made <- suppressWarnings(system("mknod null c 1 3 2>/dev/null")) == 0L # for root only
  odd <- if (made) "null, pipe, p\u00efpe and 1 more" else "pipe, p\u00efpe, zero"
  said <- capture_messages(session_files(stream))
  expect_length(said, 1L)
  expect_match(said, sprintf("do not find %s of %s: ", odd, getwd()), fixed = TRUE)
  expect_setequal(stream$files$sent$name, c("a.txt", "empty", "two words", "tab\tb"))
  # A file becomes a pipe, and a pipe a file.
  unlink(c("empty", "pipe"))
  system("mkfifo empty")
  file.create("pipe")
  expect_silent(session_files(stream))
  expect_setequal(stream$files$sent$name, c("a.txt", "pipe", "two words", "tab\tb"))
})

test_that("a folder with too many files is looked through in part, seldom, and at once when it changes", {
  stream <- sent_files()
  local_mocked_bindings(max_files = 100L, .package = "future.kubernetes")
  withr::local_options(asked = 0, listed = 0)
  tracers <- list(
    file.info = quote(options(asked = getOption("asked") + length(c(...)))),
    list.files = quote(options(listed = getOption("listed") + 1))
  )
  for (name in names(tracers)) {
    suppressMessages(trace(name, tracers[[name]], where = baseenv(), print = FALSE))
    withr::defer(suppressMessages(untrace(name, where = baseenv())))
  }
  dir.create("deep")
  dir.create("library")
  withr::local_libpaths(file.path(getwd(), "library"), action = "prefix")
  folders <- sprintf("deep/%d", 1:60)
  for (folder in folders) dir.create(folder)
  for (folder in c(folders, "library")) for (i in 1:7) file.create(file.path(folder, i))
  for (i in 8:200) file.create(file.path("library", i))
  writeLines("x", "a.txt")
  options(asked = 0, listed = 0) # of these
  stream$slow <- 1
  expect_message(session_files(stream), "it has more than 100 files and folders. Name in")
  expect_identical(nrow(stream$files$sent), 0L)
  expect_lt(getOption("asked"), 70) # of the 420 that are too many none was looked at
  expect_lt(getOption("listed"), 30) # nor was each of their folders
  look <- function(after) {
    stream$time <- stream$time + after
    before <- stream$looks
    session_files(stream)
    stream$looks > before
  }
  expect_false(look(19))
  expect_true(look(2))
  stream$slow <- 5
  expect_true(look(21))
  expect_false(look(29)) # half a minute at most
  expect_true(look(2))
  writeLines("*.log", ".futureignore")
  expect_true(look(0))
  expect_false(look(0))
  Sys.setFileTime(".", Sys.time() - 60)
  expect_true(look(0))
  Sys.sleep(0.05) # a file's time is no finer than the kernel's clock
  writeLines("deep", ".futureignore")
  expect_true(look(0))
  expect_setequal(stream$files$sent$name, "a.txt") # a library of the session is no part of the project
})

test_that("a full disk of the session is one error with the fix, and the next future finds all files", {
  small <- small_disk(4L)
  skip_if(is.null(small), "a disk of its own needs root")
  use_bed()
  withr::local_options(future.kubernetes.filesMB = 20)
  withr::local_dir(withr::local_tempdir())
  full <- FALSE
  local_mocked_bindings(
    scratch_file = function(prefix) tempfile(prefix, if (full) small else tempdir()),
    .package = "future.kubernetes"
  )
  writeLines("one", "a.txt")
  plan(kubernetes, workers = 1)
  expect_identical(value(future(list.files())), "a.txt")
  writeBin(as.raw(rep(0:255, length.out = 5e6)), "large.bin")
  full <- TRUE
  for (i in 1:2) {
    error <- expect_error(value(future(1)), "Make room there", class = "KubernetesGlobalsError")
    expect_match(conditionMessage(error), sprintf("the disk of %s is full", small), fixed = TRUE)
  }
  expect_length(list.files(small), 0L)
  unlink("large.bin")
  expect_identical(value(future(list.files())), "a.txt")
  writeBin(raw(2e5), "b.bin") # a bundle by itself, which is sent before the one that fails
  writeBin(raw(1.67e7), "large.bin")
  expect_error(value(future(1)), "Make room there", class = "KubernetesGlobalsError")
  unlink(c("b.bin", "large.bin"))
  expect_identical(value(future(list.files())), "a.txt")
  x <- as.raw(rep(0:254, length.out = 2e7))
  expect_error(value(future(length(x))), class = "KubernetesDataError")
  expect_identical(value(future(list.files())), "a.txt")
  writeBin(as.raw(rep(0:255, length.out = 5e6)), "large.bin")
  full <- FALSE
  expect_identical(value(future(file.size("large.bin"))), 5e6)
  expect_length(list.files(small), 0L)
})
