"""What runs inside a node. Its modules use the standard library alone: they run on the node's own Python."""
