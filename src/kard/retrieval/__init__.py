"""Retrievers: `search(queries, k)` gives passage positions and scores, batch first."""
