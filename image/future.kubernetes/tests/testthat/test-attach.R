# Attach mode: clusters of parallel and parallelly whose nodes are workers. R's profile in the image makes them so.
use_bed()

test_that("functions of parallel work on a cluster of workers, which are free after it although a child lives", {
  skip_if_not(any(grepl("attach_node", readLines(file.path(R.home("library"), "base", "R", "Rprofile")))))
  code <- '
    library(parallel)
    results <- function(cl) {
      a <- 2
      clusterExport(cl, "a", environment())
      clusterSetRNGStream(cl, 42)
      list(
        parLapply(cl, 1:6, function(i) i * a), clusterApplyLB(cl, 1:3, sqrt), clusterMap(cl, `+`, 1:2, 3:4),
        clusterEvalQ(cl, rnorm(2)), parSapply(cl, 1:4, function(i) runif(1)),
        tryCatch(clusterCall(cl, function() stop("theirs")), error = conditionMessage)
      )
    }
    cl <- parallelly::makeClusterPSOCK(rep("localhost", 2L), manual = TRUE, quiet = TRUE)
    system("sleep 20 >/dev/null 2>&1 &") # inherits the connections
    pods <- vapply(cl, function(node) node$pod, "")
    here <- results(cl)
    stopCluster(cl)
    stock <- makeCluster(2L)
    same <- identical(here, results(stock))
    stopCluster(stock)
    cat("SAME", same, length(unique(pods)))
  '
  printed <- system2("Rscript", c("-e", shQuote(code)), stdout = TRUE)
  expect_identical(utils::tail(printed, 1L), "SAME TRUE 2")
  await(all(workers()$state == "idle") && nrow(workers()) == 3L)
  expect_identical(sum(workers()$restarts), 0L)
})
