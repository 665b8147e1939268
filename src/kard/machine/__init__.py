"""What this machine has: processes, cores, memory, number formats."""
