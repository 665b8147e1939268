"""Writing on CPUs: cache, decoding and prompt lookup of our own."""
