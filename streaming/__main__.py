"""`python -m streaming` is the command `tracker-stream`."""

from streaming.cli import main

main(prog_name="tracker-stream")
