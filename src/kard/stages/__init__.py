"""One file a stage, one function each: what a run has so far, and the folder to write into."""
