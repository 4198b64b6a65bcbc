# One future of a second on each of n workers, without and with what comes from the session: prints the seconds of each
# map. The package has 5 MB that do not compress, the project 1,000 files and 50 MB. bench/workers.py runs this in the
# scheduler's pod, after the definitions of bench/r_package.py:  Rscript - N

n <- as.integer(commandArgs(TRUE)[1])
suppressMessages(library(future.kubernetes))
dir.create(empty <- file.path("~", "bench-empty"))
dir.create(project <- file.path("~", "bench-project"))
source <- write_package("benchpkg", "f <- function() length(content)")
content <- as.raw(sample(0:255, 5e6, TRUE))
save(content, file = file.path(source, "R", "sysdata.rda"), compress = FALSE)
install.packages(source, repos = NULL, type = "source", quiet = TRUE)
for (i in 1:1000) {
  folder <- file.path(project, i %% 20)
  dir.create(folder, showWarnings = FALSE)
  writeBin(as.raw(sample(0:255, 5e4, TRUE)), file.path(folder, i))
}
setwd(empty)
plan(kubernetes, workers = n)
map <- function(code) {
  code <- substitute(code)
  time <- system.time(value(lapply(1:n, function(i) {
    future::futureCall(function(code) { Sys.sleep(1); eval(code) }, list(code))
  })))
  cat(time[["elapsed"]], "")
}
map(1)
map(1)
map(benchpkg::f())
map(benchpkg::f())
setwd(project)
map(1)
map(1)
writeBin(raw(5e4), "1/1")
map(1)
setwd("~")
unlink(c(empty, project), recursive = TRUE)
remove.packages("benchpkg")
