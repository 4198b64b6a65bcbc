"""The command `future-kubernetes`. `main` has the commands, `runs` what happens around a run without a browser.

A run has two sides: `client` on the user's machine sends each request, with the sources of `pod_agent` and `pod_files`,
into the scheduler pod by `kubectl exec`, and the agent answers it there.
"""
