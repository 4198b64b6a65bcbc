"""Programs inside a node. They use only the standard library, since the node's own Python runs them."""
