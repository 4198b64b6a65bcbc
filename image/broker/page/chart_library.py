"""Finds the library that draws the page's charts: dygraphs, a file of Debian's and Ubuntu's package libjs-dygraphs.

The image's build runs this module, and fails without the file. A running broker goes on without it: the page says so,
and has the counts as numbers.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

PACKAGE = "libjs-dygraphs"
NAME = "dygraph.min.js"
FOLDER = Path("/usr/share/javascript/dygraphs")


def path() -> Path:
    """Return the file's place; nothing says that it is there."""
    return Path(os.environ.get("FUTURE_KUBERNETES_CHARTS", FOLDER)) / NAME


def read() -> bytes:
    """Return the library. Raises OSError with the fix where the file is missing or empty."""
    fix = f"the image's build installs it with the package {PACKAGE}: build the image again"
    try:
        content = path().read_bytes()
    except OSError as error:
        raise OSError(f"the chart library cannot be read: {error}; {fix}") from error
    if not content:
        raise OSError(f"the chart library is an empty file: {path()}; {fix}")
    return content


def main() -> None:
    """Fail where the file is missing."""
    try:
        read()
    except OSError as error:
        sys.exit(f"The live page would have no charts: {error}")


if __name__ == "__main__":
    main()
