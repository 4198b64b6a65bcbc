# Your first parallel run: run this line by line, with Ctrl+Enter in RStudio and Shift+Enter in a notebook.
# The file is yours. It is put into an empty home once, and never again.

library(future.apply)
library(future.kubernetes)

# Ask for workers. The first ones may take minutes where a machine has to start; a line reports what is missing.
plan(kubernetes)

# Each element is computed by some worker, in an R of its own.
future_sapply(1:4, function(i) Sys.info()[["nodename"]], future.seed = TRUE)

# Eight seconds of work, shared by the workers.
system.time(future_lapply(1:8, function(i) Sys.sleep(1)))

# The workers, and the live page of what they do.
workers()
dashboard()

# Let the workers go. They are used by other sessions, or stop.
plan(sequential)

# More: ?kubernetes, and vignette("future-kubernetes")
