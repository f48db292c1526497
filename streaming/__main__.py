"""`python -m streaming` is the command `tracker-stream`."""

from streaming.cli import command_line

if __name__ == "__main__":  # a process that multiprocessing starts looks at this file, too
    command_line()
