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
