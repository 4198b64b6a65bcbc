"""Code that broker, worker and scheduler share: the wire protocol, TLS, starting child processes.

Standard library only, Python 3.11 and later: it runs in the image, beside R, and installs nothing there.
"""
