"""What can go wrong in the server, as one tree.

ServerError
├── StartFailed          a process of the server did not come up
├── NotRunning           the server is not up
├── UnusableDirectory    the server's directory cannot be used as it is
├── Unavailable          for now; worth another try
│   ├── StoreUnavailable     S3 or STS did not answer as it should
│   └── DatabaseUnavailable  the database cannot be read or written: locked, disk full
└── UnknownName          no token, no run of that name
"""

from __future__ import annotations


class ServerError(Exception):
    """Base of all errors of the server; `hint` tells a person what to do next."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text} {self.hint}" if self.hint else text


class StartFailed(ServerError):
    """A process of the server did not come up."""


class NotRunning(ServerError):
    """The server is not up."""


class UnusableDirectory(ServerError):
    """The server's directory is a file, belongs to someone else, or cannot be written."""


class Unavailable(ServerError):
    """Something the server needs does not work for now; worth another try."""


class DatabaseUnavailable(Unavailable):
    """The database cannot be read or written: locked for too long, disk full."""


class StoreUnavailable(Unavailable):
    """S3 or STS did not answer as it should; `code` is its own error code where it gave one."""

    def __init__(self, message: str, *, code: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code


class UnknownName(ServerError):
    """No token or run of that name."""
