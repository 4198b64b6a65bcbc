"""The worker pod's first process: keeps one fresh R ready and joins it to the R session that the broker names.

Standard library only, Python 3.11 and later: it runs in the image, beside R, and installs nothing there.
"""
