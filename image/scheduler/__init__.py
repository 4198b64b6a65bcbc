"""The scheduler pod's first process: supervises the broker and the Jupyter server.

Standard library only, Python 3.11 and later: it runs in the image, beside R, and installs nothing there.
"""
