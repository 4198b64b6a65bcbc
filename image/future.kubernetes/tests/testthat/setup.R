# A stand-in for the broker: it answers the requests of this package, and `attach` with a real R of this machine. So
# these tests run wherever R CMD check runs; the real broker, real pods and real faults are tested on a cluster.
stand_in_folder <- tempfile("run")
dir.create(stand_in_folder)
stand_in <- function(wanted = 3L) {
  script <- testthat::test_path("stand_in.py")
  python <- Sys.which("python3")
  if (!nzchar(python)) {
    testthat::skip("the stand-in for the broker is a Python program")
  }
  log <- file.path(stand_in_folder, "log")
  system2(python, c(script, stand_in_folder, file.path(R.home("bin"), "Rscript"), wanted),
    wait = FALSE, stdout = log, stderr = log
  )
  for (i in 1:100) {
    if (file.exists(file.path(stand_in_folder, "broker.port"))) break
    Sys.sleep(0.1)
  }
  Sys.setenv(FUTURE_KUBERNETES_RUN = stand_in_folder, FUTURE_KUBERNETES_CONFIG = stand_in_folder)
  writeLines("5", file.path(stand_in_folder, "maxWorkers"))
}
stop_stand_in <- function() {
  future::plan(future::sequential)
  try(future.kubernetes:::ask("stop"), silent = TRUE)
  unlink(file.path(stand_in_folder, "broker.port"))
}
