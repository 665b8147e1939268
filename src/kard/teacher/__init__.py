"""Teachers: where rationales come from, and which of them are kept."""
