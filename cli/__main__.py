"""`python -m cli`, the same as `future-kubernetes`."""

from cli.main import run_program

run_program()
