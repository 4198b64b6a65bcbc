"""Kubernetes on one Linux machine, for stack `dev` and for the end-to-end tests.

A node lives in namespaces of its own over a Debian root folder of its own; README.md in this folder says how and why.
"""
