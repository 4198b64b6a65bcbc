"""Runs a project folder in the cluster without a browser; see `__main__.py`."""
