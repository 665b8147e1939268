"""Writing on CPUs: attention, cache, decoding and prompt lookup of our own."""
