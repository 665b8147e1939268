"""The commands: each is a typed function, its help and its docs. No logic of its own."""
