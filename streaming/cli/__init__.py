"""The command `tracker-stream`."""
