library(testthat)
library(future.kubernetes)
test_check("future.kubernetes")
