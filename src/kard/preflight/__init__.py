"""What a run will need, looked at before it: time, room, keys, names."""
