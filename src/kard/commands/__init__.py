"""Groups of commands: `kard docs` and others; each is a typed function, its help and its docs."""
