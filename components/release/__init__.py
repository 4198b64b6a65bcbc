"""The Helm release, the objects beside it, and the stack's outputs."""
