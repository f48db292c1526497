"""The soak: runs of every kind under random faults, judged by the oracle. Started by `scripts/soak`."""
