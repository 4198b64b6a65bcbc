"""Everything inside the cluster: the Helm release, its values and quota, and the stack's outputs."""
