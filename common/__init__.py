"""Helpers that every part may use: paths, errors, progress, processes, kubectl. Imports nothing of this project."""
