"""What a run is, in fifty lines: rows that were taken, and whether it has ended. Everything else is delivery's matter."""

from dataclasses import dataclass, field

Line = tuple[bytes, bytes]  # header, row
HEADERS = (b"timestamp,x\n", b"timestamp,x,y\n", b"timestamp,z\n")


@dataclass
class Model:
    """`taken`: rows that are in the spool, in order. `written`: lines of the CSV file that are still to be taken."""

    header: bytes = HEADERS[0]
    taken: list[Line] = field(default_factory=list)
    written: list[Line] = field(default_factory=list)
    unfinished_line: bytes = b""
    has_ended: bool = False
    status: str = "failed"
    count: int = 0

    def new_rows(self, row_count: int) -> list[Line]:
        """Rows that nobody has seen before, as wide as the header says."""
        rows = []
        for _ in range(row_count):
            self.count += 1
            cells = [b"%d" % self.count] + [b"v%d" % self.count] * self.header.count(b",")
            rows.append((self.header, b",".join(cells) + b"\n"))
        return rows

    def take(self, rows: list[Line]) -> None:
        self.taken += rows

    def take_written(self) -> None:
        """The feeder came by: every whole line is in the spool."""
        self.taken += self.written
        self.written = []

    def end(self, status: str) -> None:
        """The first end counts."""
        if not self.has_ended:
            self.has_ended, self.status = True, status

    def must_be_delivered(self, set_aside: list[Line]) -> list[Line]:
        """Every row but those that the store refused for good, which stay in the spool."""
        return [line for line in self.taken if line not in set(set_aside)]
