"""What is deployed into the cluster: the Helm release, its values and quota, and the stack's outputs."""
