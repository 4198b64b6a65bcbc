test_that("a release is named by a stack or a list, and what is wrong is said with what is right", {
  bad <- list(
    5, NA_character_, "", list(), list("x"), list(namespace = "x"), list(release = 1), list(release = "x", pod = "y")
  )
  for (cluster in bad) {
    expect_error(use_cluster(cluster), "cluster = list\\(release", class = "KubernetesClusterError")
  }
  expect_identical(
    command_of_release(list(release = "r", context = "a b")),
    "kubectl --context='a b' port-forward 'deployment/r-scheduler'"
  )
})

test_that("a stack's name leads to the command that it prints, without its ports", {
  folder <- withr::local_tempdir()
  pulumi <- file.path(folder, "pulumi")
  withr::local_envvar(PATH = paste0(folder, ":", Sys.getenv("PATH")))
  says <- function(text, status) {
    writeLines(c("#!/bin/sh", sprintf("[ \"$5\" = 'the team' ] || exit 9; echo \"%s\"; exit %d", text, status)), pulumi)
    Sys.chmod(pulumi, "755")
  }
  says("kubectl --context='a b' --namespace=n port-forward service/r-scheduler 8787:8787", 0L)
  expect_identical(
    command_of_stack("the team"), "kubectl --context='a b' --namespace=n port-forward deployment/r-scheduler"
  )
  for (case in list(list("error: no stack named 'team' found", 255L), list("something else", 0L))) {
    says(case[[1L]], case[[2L]])
    error <- expect_error(command_of_stack("the team"), "pulumi stack ls", class = "KubernetesClusterError")
    expect_match(conditionMessage(error), case[[1L]], fixed = TRUE)
  }
})

test_that("on another platform packages with compiled code do not travel, and with another R none does", {
  skip_if_not_installed("jsonlite")
  on.exit(use_cluster(NULL))
  target$command <- "none"
  target$about <- list(packages = list())
  names_of <- function(same_r, same_platform) {
    target$same_r <- same_r
    target$same_platform <- same_platform
    vapply(remote_packages(), travels, NA, name = "")
  }
  expect_false(any(names_of(FALSE, FALSE)))
  there <- names_of(TRUE, FALSE)
  expect_false(there[basename(names(there)) == "jsonlite"])
  expect_true(all(names_of(TRUE, TRUE)))
  expect_false(any(c("base", "stats", "future") %in% basename(names(there))))
})

test_that("what differs between this machine and the workers is said before the first future, and nothing else", {
  skip_if_not_installed("jsonlite")
  on.exit(use_cluster(NULL))
  target$command <- "none"
  attached <- setdiff(sub("^package:", "", grep("^package:", search(), value = TRUE)), base_packages())
  attached <- setdiff(attached, "future.kubernetes") # from no repository, unlike these
  here <- R.version$platform
  said <- function(..., r = as.character(getRversion()), platform = here) {
    packages <- lapply(`names<-`(attached, attached), function(name) as.character(utils::packageVersion(name)))
    about <- list(r = r, platform = platform, packages = utils::modifyList(packages, list(...)))
    about$packages[["future.kubernetes"]] <- as.character(utils::packageVersion("future.kubernetes"))
    local_mocked_bindings(
      ask = function(...) jsonlite::toJSON(about, auto_unbox = TRUE), .package = "future.kubernetes"
    )
    capture_messages(compare_with_workers())
  }
  version <- function(name) sprintf("%s 0.0.1 (here %s)", name, utils::packageVersion(name))
  expect_length(said(), 0L)
  expect_length(said(testthat = "0.0.1"), 0L) # this machine's travels
  both <- said(testthat = "0.0.1", future = "0.0.1")
  expect_length(both, 1L)
  expect_match(both, paste("in another version:", version("future")), fixed = TRUE) # its own is loaded there by then
  expect_no_match(both, "testthat", fixed = TRUE)
  elsewhere <- said(testthat = "0.0.1", platform = "another")
  expect_length(elsewhere, 1L)
  expect_match(elsewhere, version("testthat"), fixed = TRUE)
  series <- said(r = "3.0.2")
  expect_length(series, 1L)
  expect_match(series, sprintf("run R 3.0.2 and this session %s: .* Use R 3.0 here", getRversion()))
})

test_that("a session on another machine runs its futures here, and a forward that ends is made again", {
  skip_if_not(file.exists("/usr/local/lib/future-kubernetes/about.json"), "the image is not built")
  start_bed(2L)
  on.exit(stop_bed())
  on_a_laptop({
    for (case in list(c("no-right", "Permission"), c("no-release", "Unavailable"))) {
      expect_error(
        plan(kubernetes, workers = 1, cluster = list(release = case[1L])),
        class = paste0("Kubernetes", case[2L], "Error")
      )
    }
    plan(kubernetes, workers = 2, cluster = list(release = "check"))
    expect_identical(value(future(42)), 42)
    x <- as.numeric(1:3e6)
    expect_identical(value(future(x + 1)), x + 1)
    f <- future({
      Sys.sleep(1)
      Sys.getpid()
    })
    first <- target$pid
    tools::pskill(first, 9)
    expect_type(value(f), "integer")
    expect_false(target$pid == first)
    expect_lt(session_id(), 0)
    stream <- plan("backend")[["stream"]]
    fs <- lapply(1:3, function(i) future(rep(0.5, 1e6)))
    await(all(resolved(fs)))
    expect_identical(value(fs[[1L]]), rep(0.5, 1e6))
    files <- list.files(tempdir(), "^future-value-", full.names = TRUE)
    expect_length(files, 1L)
    written <- file.mtime(files)
    expect_identical(value(fs[-1L]), list(rep(0.5, 1e6), rep(0.5, 1e6)))
    expect_identical(file.mtime(files), written, info = "it came once")
    await({
      value(future(1))
      length(list.files(tempdir(), "^future-value-")) == 0L
    })
  })
  expect_error(plan(kubernetes, workers = 1, cluster = NULL), NA)
  expect_identical(session_id(), Sys.getpid())
})

test_that("a package that this machine cannot send is an error of its future with the reason, and the plan goes on", {
  start_bed(1L)
  withr::defer(stop_bed())
  library <- withr::local_tempdir()
  withr::local_libpaths(library, action = "prefix")
  make_package <- function(name) {
    source <- file.path(withr::local_tempdir(), name)
    dir.create(file.path(source, "R"), recursive = TRUE)
    writeLines(sprintf(c("Package: %s", "Version: 1.0", "Title: Of a Test", "License: none"), name),
      file.path(source, "DESCRIPTION"))
    writeLines("export(f)", file.path(source, "NAMESPACE"))
    writeLines("f <- function() 'of the package'", file.path(source, "R", "f.R"))
    install.packages(source, library, repos = NULL, type = "source", quiet = TRUE)
    file.path(library, name)
  }
  on_a_laptop({
    plan(kubernetes, workers = 1, cluster = list(release = "check"))
    first <- make_package("firstpkg")
    expect_identical(value(future(firstpkg::f())), "of the package")
    removed <- make_package("removedpkg")
    f <- future({
      Sys.sleep(0.5)
      removedpkg::f()
    })
    unlink(removed, recursive = TRUE)
    expect_error(value(f), "not in .* of this machine any more", class = "KubernetesPackageError")
    large <- make_package("largepkg")
    writeBin(raw(2e6), file.path(large, "data"))
    small <- small_disk(1L)
    if (!is.null(small)) {
      with_mocked_bindings(
        expect_error(value(future(largepkg::f())), "could not pack it: the disk", class = "KubernetesPackageError"),
        scratch_file = function(prefix) tempfile(prefix, small)
      )
    }
    with_mocked_bindings(
      expect_error(value(future(largepkg::f())), "could not pack it: no way", class = "KubernetesPackageError"),
      pack_package = function(...) stop("no way")
    )
    expect_identical(value(future(largepkg::f())), "of the package")
    expect_identical(value(future(firstpkg::f())), "of the package")
  })
})

test_that("a large value that a laptop's disk does not hold is an error of its futures, and the next one comes", {
  small <- small_disk(4L)
  skip_if(is.null(small), "a disk of its own needs root")
  start_bed(1L)
  withr::defer(stop_bed())
  on_a_laptop({
    plan(kubernetes, workers = 1, cluster = list(release = "check"))
    full <- TRUE
    local_mocked_bindings(
      scratch_file = function(prefix) tempfile(prefix, if (full) small else tempdir()), .package = "future.kubernetes"
    )
    f <- future(rep(0.5, 1e6))
    error <- expect_error(value(f), "could not be read by this session", class = "KubernetesDataError")
    expect_match(conditionMessage(error), paste("the disk of", small), fixed = TRUE)
    expect_length(list.files(small), 0L)
    expect_identical(value(future(1)), 1)
    full <- FALSE
    expect_identical(value(future(rep(0.25, 1e6))), rep(0.25, 1e6))
  })
})

test_that("a forward that hangs after an hour asleep is made again, in each way to look at a future", {
  local_mocked_bindings(pause_answer = 2L, .package = "future.kubernetes")
  asleep(function(hour) {
    forwards <- integer()
    on.exit(for (pid in forwards) tools::pskill(pid, 9))
    for (look in list(
      function(f) await(resolved(f)), function(f) value(f), function(f) value(future(Sys.getpid()))
    )) {
      pid <- value(future(Sys.getpid()))
      f <- future({
        Sys.sleep(0.5)
        Sys.getpid()
      })
      forwards <- c(forwards, target$pid)
      tools::pskill(target$pid, tools::SIGSTOP) # it keeps its connections, and passes nothing on
      hour()
      took <- system.time(look(f))[["elapsed"]]
      expect_gt(took, 1.5) # it may be slow, and is not given up at once
      expect_lt(took, 15)
      expect_false(target$pid %in% forwards)
      expect_identical(value(f), pid)
    }
    hour()
    last <- target$pid
    expect_identical(value(future(Sys.getpid())), pid)
    expect_identical(target$pid, last, info = "one that works stays")
  })
})

test_that("an hour asleep while the connection is made again is no hour of waiting, also with an expired login", {
  asleep(function(hour) {
    kubectl <- Sys.which("kubectl")
    offline <- file.path(dirname(kubectl), "offline")
    for (said in c("Unable to connect to the server: no route to host", "You must be logged in (Unauthorized)")) {
      f <- future({
        Sys.sleep(0.5)
        "computed"
      })
      writeLines(said, offline)
      tools::pskill(target$pid, 9)
      told <- character()
      local_mocked_bindings(start_forward = local({
        start <- start_forward
        tries <- 0
        function() {
          tries <<- tries + 1
          if (tries %in% c(2, 4)) hour() # it falls asleep in the midst of it, twice
          if (tries == 6) unlink(offline)
          start()
        }
      }), .package = "future.kubernetes")
      expect_identical(withCallingHandlers(value(f), message = function(m) {
        told <<- c(told, conditionMessage(m))
        invokeRestart("muffleMessage")
      }), "computed")
      expect_length(told, 1L)
      expect_match(told, said, fixed = TRUE)
    }
  })
})

test_that("minutes of waiting are counted, and of a time asleep only one", {
  time <- 0
  local_mocked_bindings(clock = function() time)
  waited <- stopwatch()
  for (i in 1:100) {
    time <- time + 5
    expect_identical(waited(), 5 * i)
  }
  time <- time + 3600
  expect_identical(waited(), 560)
})
