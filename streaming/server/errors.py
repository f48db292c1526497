"""What can go wrong in the target, as one tree.

TargetError
├── StartFailed          a process of the target did not come up
├── NotRunning           the target is not up
├── UnusableDirectory    the target's directory cannot be used as it is
├── Unavailable          for now; worth another try
│   ├── StoreUnavailable     S3 or STS did not answer as it should
│   └── DatabaseUnavailable  the database cannot be read or written: locked, disk full
├── UnreadableObject     an object is there, yet is not gzip CSV of our kind
└── UnknownName          no token, no run of that name
"""

from __future__ import annotations


class TargetError(Exception):
    """Base of all errors of the target; `hint` tells a person what to do next."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text} {self.hint}" if self.hint else text


class StartFailed(TargetError):
    """A process of the target did not come up."""


class NotRunning(TargetError):
    """The target is not up."""


class UnusableDirectory(TargetError):
    """The target's directory is a file, belongs to someone else, or cannot be written."""


class Unavailable(TargetError):
    """Something the target needs does not work for now; worth another try."""


class DatabaseUnavailable(Unavailable):
    """The database cannot be read or written: locked for too long, disk full."""


class StoreUnavailable(Unavailable):
    """S3 or STS did not answer as it should; `code` is its own error code where it gave one."""

    def __init__(self, message: str, *, code: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code


class UnreadableObject(TargetError):
    """An object exists, yet is no gzip CSV with a header line; `key` names it."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key}: {reason}")
        self.key = key
        self.reason = reason


class UnknownName(TargetError):
    """No token or run of that name."""
