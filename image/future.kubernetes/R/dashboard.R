#' Live page of the cluster
#'
#' Shows the page on which the release's workers and futures are seen as they run: workers as tiles, a lane of futures
#' for each worker, counts over time, what is waited for, and why workers were lost. The page is behind the login of
#' the IDE. In a notebook it opens below the cell, with a link for a tab of its own. In RStudio it opens in the viewer,
#' whose button opens it in a window of its own. Elsewhere its address is printed.
#'
#' @param height height of the page in a notebook, in pixels.
#' @return The page's path below the address of the IDE, invisibly.
#' @examples
#' if (file.exists("/run/future-kubernetes/page.path")) dashboard()
#' @export
dashboard <- function(height = 700L) {
  if (!is.numeric(height) || length(height) != 1L || is.na(height) || height < 100 || height > 10000) {
    stop(kubernetes_error(
      "Page", "dashboard(height = ) is ", deparse(height, nlines = 1L),
      "; it is a number of pixels from 100 to 10000, as in dashboard(height = 700)"
    ))
  }
  path <- page_path()
  viewer <- getOption("viewer")
  # RStudio's address in the browser.
  browser <- sub("^(https?://[^/]+)/.*", "\\1", grep("^https?://", Sys.getenv("RSTUDIO_HTTP_REFERER"), value = TRUE))
  if (isTRUE(getOption("jupyter.in_kernel")) && requireNamespace("IRdisplay", quietly = TRUE)) {
    IRdisplay::display_html(sprintf(paste0(
      "<p><a href=\"%1$s\" target=\"_blank\">Open in a tab</a></p>",
      "<iframe src=\"%1$s\" title=\"Cluster\" style=\"width: 100%%; height: %2$dpx; border: 0\"></iframe>"
    ), path, as.integer(height)))
  } else if (identical(Sys.getenv("RSTUDIO"), "1") && is.function(viewer)) {
    viewer(viewer_file(path))
  } else if (length(browser)) {
    utils::browseURL(paste0(browser, path))
  } else if (is.function(viewer)) {
    viewer(paste0("http://localhost:", ide_port, path))
  } else {
    cat(sprintf("The cluster's page: http://localhost:%1$d%2$s, or %2$s below the IDE's address\n", ide_port, path))
  }
  invisible(path)
}

# A page in R's temporary folder that leads to the live page. RStudio's viewer asks rserver for an address of localhost,
# without the login. A file of this folder it opens below RStudio's own address, which is the front door's.
viewer_file <- function(path) {
  file <- file.path(tempdir(), "cluster.html")
  page <- readLines(system.file("viewer.html", package = "future.kubernetes", mustWork = TRUE))
  writeLines(gsub("PAGE", path, page, fixed = TRUE), file)
  file
}

ide_port <- 8787L

# The page's path, which the Jupyter server writes once it has begun to serve it.
page_path <- function() {
  file <- file.path(run_folder(), "page.path")
  path <- tryCatch(suppressWarnings(readLines(file, 1L)), error = function(e) character())
  if (length(path) != 1L || !grepl("^/[A-Za-z0-9_./~%-]*$", path)) {
    stop(kubernetes_error(
      "Page", "There is no page here: ", file, " does not exist. The Jupyter server of the scheduler's pod ",
      "writes it when it starts: try again in a minute. workers() shows the workers meanwhile"
    ))
  }
  path
}
