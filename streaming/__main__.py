"""`python -m streaming` is the command `tracker-stream`."""

from streaming.cli import main

if __name__ == "__main__":  # a process that multiprocessing starts looks at this file, too
    main(prog_name="tracker-stream")
