"""Clusters that exist already: by kubeconfig, and the one on this machine."""
