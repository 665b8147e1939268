"""One file for each format or dataset."""
