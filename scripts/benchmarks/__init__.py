"""The benchmark behind `scripts/bench`: one file per measurement, each against a peer or a limit of the same run."""
