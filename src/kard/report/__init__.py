"""What a run leaves to read: one HTML page, a model card, and tables for the terminal."""
