#' @importFrom future FutureInterruptError FutureCanceledError MultiprocessFutureBackend
#' @importFrom future interruptFuture launchFuture nbrOfFreeWorkers nbrOfWorkers plan resolved result run stopWorkers
#' @importFrom parallelly isNodeAlive killNode
#' @keywords internal
"_PACKAGE"

class(kubernetes) <- c("kubernetes", "multiprocess", "future", "function")
attr(kubernetes, "init") <- TRUE
attr(kubernetes, "factory") <- KubernetesFutureBackend
attr(kubernetes, "tweakable") <- c(
  "workers", "retries", "wait", "gc", "earlySignal", "interrupts", "wait.timeout", "wait.interval", "wait.alpha",
  "maxSizeOfObjects", "hooks", "setup", "cluster"
)

.onLoad <- function(libname, pkgname) {
  at_load$environment <- Sys.getenv()
  reg.finalizer(target, function(target) end_forward(), onexit = TRUE)
}
