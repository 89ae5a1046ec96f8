"""All nodes of a cluster at once."""
