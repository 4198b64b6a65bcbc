"""The command `future-kubernetes`. `main` has the commands, `runs` what happens around a run without a browser.

A run has two sides: `client` on the user's machine sends each request, with the source of `pod_agent`, into the
scheduler pod by `kubectl exec`, and that source answers it there.
"""
