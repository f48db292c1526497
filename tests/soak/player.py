"""A user's program in the soak. Every row whose append returned is in its list of acknowledgements, or in its CSV file.

python -m tests.soak.player append|csv NAME SECONDS ENDING DIRECTORY
"""

import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from streaming import StreamingManager

HEADER = b"timestamp,name,x\n"


def rows_of(name: str, number: int) -> bytes:
    """Batch `number` of the run `name`: one to four rows."""
    row = f"{number},{name},"
    return "".join(f"{row}{part}{'x' * (number % 50)}\n" for part in range(number % 4 + 1)).encode()


def main() -> None:
    sort, name, seconds, ending, directory = sys.argv[1:]
    csv_path = Path(directory, f"{name}.csv") if sort == "csv" else None
    manager = StreamingManager(
        os.environ["SENTINEL_API_TOKEN"],
        csv_path=str(csv_path) if csv_path else None,
        upload_interval=1,
        spool_interval=0.2,
        stop_timeout=10,
        metadata={"job_name": name},
        host_info={},
        cloud_info={},
    )
    if csv_path is not None:
        csv_path.write_bytes(HEADER)
    manager.start()
    work = _write(csv_path, name) if csv_path else _append(manager, name, Path(directory, f"{name}.acks"))
    until = time.monotonic() + float(seconds)
    while time.monotonic() < until:
        next(work)
    _end(manager, ending)


def _append(manager: StreamingManager, name: str, acks: Path) -> Iterator[None]:
    chance = random.Random(name)
    descriptor = os.open(acks, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    number = 0
    while True:
        manager.append(HEADER + rows_of(name, number))
        os.write(descriptor, b"%d\n" % number)
        number += 1
        time.sleep(chance.uniform(0.0, 0.3))
        yield


def _write(csv_path: Path, name: str) -> Iterator[None]:
    """Rows in pieces that do not care where lines end; whole at each `yield`."""
    chance = random.Random(name)
    number = 0
    with csv_path.open("ab", buffering=0) as file:
        while True:
            csv = rows_of(name, number)
            cut = chance.randrange(len(csv))
            file.write(csv[:cut])
            time.sleep(chance.uniform(0.0, 0.15))
            file.write(csv[cut:])
            number += 1
            time.sleep(chance.uniform(0.0, 0.15))
            yield


def _end(manager: StreamingManager, ending: str) -> None:
    if ending == "stop":
        manager.stop()
    elif ending == "failed":
        manager.stop(3, "failed")
        sys.exit(3)
    elif ending == "os._exit":
        os._exit(5)


if __name__ == "__main__":
    main()
