"""The node agent: the only writer of node state."""
