"""Questions and documents: read, checked, cut, and kept on disk."""
