"""A thin layer over the kubernetes client: raw JSON in and out, one module per kind of object."""
