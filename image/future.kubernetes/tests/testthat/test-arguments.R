test_that("a number of workers that is none is refused with a class of its own, and the session stays usable", {
  for (bad in list(0, -1, NA, "four", 1.5, c(5, 2), c(1, 2, 3), NULL, Inf, TRUE)) {
    expect_error(check_workers(bad), class = "KubernetesWorkersError")
  }
  expect_error(plan(kubernetes, workers = "four"), "four.*as in workers = 4", class = "KubernetesWorkersError")
  plan(sequential)
  expect_identical(value(future(42)), 42)
})

test_that("a number, or a smallest and a largest, is taken as it is", {
  expect_identical(check_workers(4), 4L)
  expect_identical(check_workers(c(2, 40)), c(2L, 40L))
  expect_identical(check_workers(0, min = 0L), 0L)
})

test_that("scale_workers() takes one number", {
  expect_error(scale_workers(-1), class = "KubernetesWorkersError")
  expect_error(scale_workers(c(1, 2)), "one number", class = "KubernetesWorkersError")
})

test_that("outside a scheduler pod the plan says where it works", {
  Sys.setenv(FUTURE_KUBERNETES_RUN = tempfile())
  on.exit(Sys.unsetenv("FUTURE_KUBERNETES_RUN"))
  expect_error(plan(kubernetes, workers = 2), "scheduler pod", class = "KubernetesBrokerError")
  plan(sequential)
  expect_error(workers(), class = "KubernetesBrokerError")
})

test_that("each answer of the broker has its class, and the maximum its fix", {
  expect_s3_class(answer_error("permission no role"), "KubernetesPermissionError")
  expect_s3_class(answer_error("unreachable gone"), "KubernetesUnreachableError")
  expect_s3_class(answer_error("protocol differs"), "KubernetesVersionError")
  expect_s3_class(answer_error("no worker is free"), "KubernetesUnavailableError")
  expect_match(conditionMessage(answer_error("above-maximum 9 were asked for")), "^9 were asked for.*maxWorkers")
})

test_that("a future that is given up names its pods, their ends and what helps", {
  f <- future(1, lazy = TRUE, label = "x")
  json <- '{"pods": ["a", "b"], "reasons": ["its network fell silent", "out of memory (out of memory)"], "tail": "bye"}'
  text <- conditionMessage(lost_error(f, json))
  expect_match(text, "x was lost 2 times.*a: its network fell silent; b: out of.*workerMemoryGiB.*bye")
  other <- lost_error(f, '{"pods": ["a"], "reasons": ["gone"], "tail": ""}')
  expect_no_match(conditionMessage(other), "workerMemoryGiB")
})

test_that("dashboard() says what it needs where no page is served, and refuses a height that is none", {
  folder <- tempfile()
  dir.create(folder)
  Sys.setenv(FUTURE_KUBERNETES_RUN = folder)
  on.exit(Sys.unsetenv("FUTURE_KUBERNETES_RUN"))
  expect_error(dashboard(), "try again in a minute", class = "KubernetesPageError")
  for (bad in list("tall", 0, NA, c(1, 2), NULL, 1e6)) {
    expect_error(dashboard(bad), "100 to 10000", class = "KubernetesPageError")
  }
  writeLines("javascript:alert(1)", file.path(folder, "page.path"))
  expect_error(dashboard(), class = "KubernetesPageError")
})

test_that("dashboard() prints the address, or opens it in a viewer or RStudio's browser", {
  folder <- tempfile()
  dir.create(folder)
  writeLines("/team/r/cluster/", file.path(folder, "page.path"))
  Sys.setenv(FUTURE_KUBERNETES_RUN = folder)
  opened <- NULL
  old <- options(viewer = NULL, browser = NULL)
  on.exit({
    Sys.unsetenv(c("FUTURE_KUBERNETES_RUN", "RSTUDIO_HTTP_REFERER", "RSTUDIO"))
    options(old)
  })
  address <- "http://localhost:8787/team/r/cluster/"
  expect_output(expect_identical(dashboard(), "/team/r/cluster/"), address, fixed = TRUE)
  options(viewer = function(url) opened <<- url, browser = function(url) opened <<- paste("tab", url))
  dashboard()
  expect_identical(opened, address)
  Sys.setenv(RSTUDIO_HTTP_REFERER = "https://r.example.org/team/r/rstudio/")
  dashboard()
  expect_identical(opened, "tab https://r.example.org/team/r/cluster/")
  Sys.setenv(RSTUDIO = "1")
  dashboard()
  # RStudio opens no other file in its viewer.
  expect_identical(normalizePath(dirname(opened)), normalizePath(tempdir()))
  expect_match(readLines(opened), "0; url=/team/r/cluster/\"", fixed = TRUE, all = FALSE)
  expect_no_match(readLines(opened), "PAGE|localhost")
  options(viewer = NULL)  # an R process that RStudio's session started
  dashboard()
  expect_identical(opened, "tab https://r.example.org/team/r/cluster/")
})

test_that("report() refuses what it cannot use before it asks the broker", {
  withr::local_dir(withr::local_tempdir())
  for (bad in list(1, "", NA_character_, c("a", "b"), NULL, "none/report.html", ".")) {
    expect_error(report(bad), "report\\(", class = "KubernetesReportError")
  }
  for (bad in list(1, "today", Sys.time() + c(-1, -2), as.POSIXct(NA), Sys.time() + 100)) {
    expect_error(report(since = bad), "Sys.time\\(\\) - 600", class = "KubernetesReportError")
  }
  for (bad in list(-1, "cheap", Inf, c(1, 2), TRUE, list())) {
    expect_error(report(price = bad), "price = 0.21", class = "KubernetesReportError")
  }
  expect_error(report(open = NA), "open = FALSE", class = "KubernetesReportError")
  withr::local_envvar(FUTURE_KUBERNETES_WORKER_PRICE = "much")
  expect_error(report(), "FUTURE_KUBERNETES_WORKER_PRICE", class = "KubernetesReportError")
})

test_that("report() replaces a report, and no file of the user's own", {
  withr::local_dir(withr::local_tempdir())
  withr::local_envvar(FUTURE_KUBERNETES_WORKER_PRICE = NA)
  html <- "<!DOCTYPE html>\n<meta name=\"generator\" content=\"future.kubernetes report\">\n\u00b5 %s"
  asked <- NULL
  local_mocked_bindings(ask = function(...) {
    asked <<- c(...)
    paste0("{\"html\": ", jsonlite::toJSON(html, auto_unbox = TRUE), ", \"lines\": [\"4 futures in 25 s\"]}")
  })
  expect_output(
    path <- report(since = Sys.time() - 60, price = 0.21, open = FALSE), "4 futures in 25 s\nwritten to report"
  )
  expect_identical(path, normalizePath("report.html"))
  expect_identical(asked[c(1, 2, 4)], c("report", paste0("session:", Sys.getpid()), "0.21"))
  expect_equal(as.numeric(Sys.time()) - as.numeric(sub("@", "", asked[3])), 60, tolerance = 0.1)
  expect_identical(readChar("report.html", 1e4, useBytes = TRUE), html)
  expect_output(report(open = FALSE))
  expect_identical(asked[4], "-")
  expect_identical(list.files(), "report.html")
  writeLines("<html>my own</html>", "report.html")
  expect_error(report(), "it stays", class = "KubernetesReportError")
  expect_identical(readLines("report.html"), "<html>my own</html>")
  html <- ""
  expect_error(report("other.html"), "Run futures first", class = "KubernetesReportError")
  expect_false(file.exists("other.html"))
})
