"""What the commands do around a run."""
