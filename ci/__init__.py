"""Scripts of the workflows and of `make lint`: plain functions with a command line each, run by tests as they stand."""
