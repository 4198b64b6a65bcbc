"""What every part may use: paths, errors, progress, processes. Imports nothing of this project."""
