#' Report on what futures did
#'
#' Writes one HTML file on the futures of this session: wall and CPU time, efficiency against the ideal, a stream of
#' futures with a lane for each worker, the slowest futures, bytes moved, losses, and cost. The file needs no other file
#' and no network, so it can be kept or sent. A batch run (`future-kubernetes run`) writes one by itself.
#'
#' @section What it covers:
#' The futures of `plan(kubernetes)` in this session, as the broker saw them. The broker keeps what happened in the last
#' hour, at most 40,000 events, which are some 13,000 futures; a restart of the broker starts anew. The report says if
#' it lacks something for that reason. Workers of `plan(cluster)` are not in it.
#'
#' @section Figures:
#' The ideal is the time of all runs that gave a result, divided by the most workers that ran at once, and at least the
#' longest run. Efficiency is the ideal over the wall time. CPU time is that of a future's R process and of the child
#' processes that it has waited for. A worker-hour counts from a worker's first run to the end of its last one. The cost
#' is worker-hours times `price`, and unknown without a price. The cloud's bill also has nodes that start or stand idle,
#' the scheduler, disks and traffic.
#'
#' @param file name of the file. A report there is replaced, another file is not.
#' @param since a time, as of [Sys.time()]: only what happened since then, on another machine than the
#'   pod from a second before; `NULL` for all of this session.
#' @param price price of a worker and hour, in any currency; `NA` if it is not known. The default is the environment
#'   variable `FUTURE_KUBERNETES_WORKER_PRICE`, which the stack's setting `environment` can give to everybody.
#' @param open if `TRUE`, show the file: in RStudio's viewer, as a link in a notebook, or in a browser.
#' @return The path of the file, invisibly. A summary is printed.
#' @examples
#' if (file.exists("/run/future-kubernetes/broker.port")) {
#'   plan(kubernetes, workers = 2)
#'   begin <- Sys.time()
#'   invisible(value(lapply(1:4, function(i) future(i^2, label = paste0("square-", i)))))
#'   report(tempfile(fileext = ".html"), since = begin, open = FALSE)
#' }
#' @export
report <- function(file = "report.html", since = NULL, price = Sys.getenv("FUTURE_KUBERNETES_WORKER_PRICE", NA),
                   open = interactive()) {
  check_report_file(file)
  seconds <- if (is.null(since)) proc.time()[["elapsed"]] else seconds_since(since)
  # The clock of another machine may differ from the broker's, and its request is on its way for a while.
  when <- if (remote_session()) sprintf("%.3f", seconds + 1) else sprintf("@%.3f", as.numeric(Sys.time()) - seconds)
  price <- check_price(price)
  if (!isTRUE(open) && !isFALSE(open)) {
    stop(report_error("open = ", short(open), "; it is TRUE or FALSE, as in report(open = FALSE)"))
  }
  title <- paste("Futures of the R session", if (remote_session()) "on another machine" else Sys.getpid())
  made <- jsonlite::fromJSON(ask(
    "report", paste0("session:", session_id()), when,
    if (is.na(price)) "-" else format(price, digits = 10L, scientific = FALSE), title
  ))
  if (!nzchar(made$html)) {
    stop(report_error(
      "there is no future of this session ", if (is.null(since)) "in what the broker holds" else "since that time",
      ": it keeps the last hour, and of plan(kubernetes) only. ",
      if (is.null(since)) "Run futures first" else "Try report() without 'since'"
    ))
  }
  write_report(made$html, file)
  cat(paste0(c(made$lines, paste("written to", file)), "\n"), sep = "")
  path <- normalizePath(file)
  if (open) show_report(path, file)
  invisible(path)
}

report_error <- function(...) kubernetes_error("Report", "report(): ", ...)

short <- function(x) substr(deparse(x, nlines = 1L)[1L], 1L, 60L)

check_report_file <- function(file) {
  if (!is.character(file) || length(file) != 1L || is.na(file) || !nzchar(file)) {
    stop(report_error("file = ", short(file), "; it is the name of a file, as in report(\"report.html\")"))
  }
  if (!dir.exists(dirname(file))) {
    stop(report_error("there is no folder '", dirname(file), "'. Create it with dir.create(), or name another file"))
  }
  if (dir.exists(file)) {
    stop(report_error("'", file, "' is a folder; name a file, as in report(\"report.html\")"))
  }
  if (file.exists(file) && !is_report(file)) {
    stop(report_error(
      "'", file, "' is there and is no report of this package, so it stays. Name another file, as in ",
      "report(\"futures.html\"), or remove it"
    ))
  }
}

# The broker's image/broker/run_report/page.py writes this line.
is_report <- function(file) {
  head <- tryCatch(readLines(file, 6L, warn = FALSE), error = function(e) character())
  any(grepl("<meta name=\"generator\" content=\"future.kubernetes report\">", head, fixed = TRUE, useBytes = TRUE))
}

seconds_since <- function(since) {
  if (!inherits(since, "POSIXt") || length(since) != 1L || is.na(since)) {
    stop(report_error("since = ", short(since), "; it is one time, as in report(since = Sys.time() - 600)"))
  }
  seconds <- as.numeric(Sys.time()) - as.numeric(as.POSIXct(since))
  if (seconds < 0) {
    stop(report_error("since = ", format(since), " is in the future; it is a time before now, as Sys.time() - 600"))
  }
  seconds
}

check_price <- function(price) {
  given <- price
  if (length(price) == 1L && (is.na(price) || identical(price, ""))) {
    return(NA_real_)
  }
  price <- if (is.character(price) || is.numeric(price)) suppressWarnings(as.numeric(price)) else NA_real_
  if (length(price) != 1L || is.na(price) || price < 0 || !is.finite(price)) {
    stop(report_error(
      "price = ", short(given), "; it is the price of a worker and hour, a number of 0 or more, as in ",
      "report(price = 0.21). Its default is the environment variable FUTURE_KUBERNETES_WORKER_PRICE"
    ))
  }
  price
}

write_report <- function(html, file) {
  new <- paste0(file, ".new")
  on.exit(unlink(new))
  failed <- tryCatch(
    {
      con <- base::file(new, "wb")
      tryCatch(writeBin(charToRaw(enc2utf8(html)), con), finally = close(con))
      if (file.rename(new, file)) NULL else "it could not be renamed"
    },
    error = conditionMessage, warning = conditionMessage
  )
  if (!is.null(failed)) {
    stop(report_error("'", file, "' cannot be written: ", failed, ". Name a file in a folder of yours"))
  }
}

show_report <- function(path, file) {
  viewer <- getOption("viewer")
  if (isTRUE(getOption("jupyter.in_kernel")) && requireNamespace("IRdisplay", quietly = TRUE)) {
    # A path from the notebook's own folder, which JupyterLab opens in a tab.
    IRdisplay::display_html(sprintf("<a href=\"%s\" target=\"_blank\">Open the report</a>", utils::URLencode(file)))
  } else if (is.function(viewer)) {
    copy <- tempfile("report-", fileext = ".html") # RStudio shows files of R's own temporary folder only
    file.copy(path, copy)
    viewer(copy)
  } else {
    tryCatch(utils::browseURL(paste0("file://", path)), error = function(e) NULL) # a terminal may have no browser
  }
}
