"""Everything that can go wrong between a spool and the service, as types. Messages never hold a token or a key.

StreamError
├── BadArgument           the caller's own mistake (also a ValueError); names the value and the remedy
├── LaunchFailed          a child process could not be started
├── Transient             worth trying again: carries a cause and the wait that the far end asked for
│   ├── Unreachable       no route, DNS, refused, reset, timeout, TLS, proxy: nobody answered
│   ├── Busy              5xx, 429, 409 from S3: somebody answered "not now"
│   ├── NotTheService     an answer that is not the service's (captive portal, broken JSON, no proof of storage)
│   ├── ClockSkew         S3 refuses the request's date
│   ├── EverythingRefused S3 refuses every segment: then nothing is rejected
│   ├── NoRoom            the spool cannot note what was delivered: disk full, quota, or file size limit
│   └── Defect            our own: it must not stop other runs, and the next version may have none
├── Unauthorized          the service refuses the token
├── CredentialsRefused    S3 refuses the STS credentials
├── Refused               a permanent 4xx; carries status and answer
│   ├── RunUnknown        404/410: the service does not know the run
│   ├── AlreadyFinished   409 on finish
│   └── SegmentRefused    S3 refuses this object for good
│       └── SegmentTooLarge   a smaller one may pass
└── Parked                the run waits for a person
"""

from __future__ import annotations


class StreamError(Exception):
    """Base of all errors of this package. `hint` says what a person can do, `cause` why in a word; both may be empty."""

    cause = ""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}: {self.hint}" if self.hint else self.message


class BadArgument(StreamError, ValueError):
    """An argument cannot be used."""


class LaunchFailed(StreamError):
    """A child process could not be started."""


class Transient(StreamError):
    """Try again. `cause` is one word for people and programs, `retry_after_s` what the far end asked for, if it did."""

    def __init__(self, message: str, *, cause: str, hint: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.cause = cause
        self.retry_after_s = retry_after_s


class Unreachable(Transient):
    """Nobody answered."""


class Busy(Transient):
    """The far end answered that it cannot serve now."""


class NotTheService(Transient):
    """Somebody answered, but not what the service or S3 answers."""


class ClockSkew(Transient):
    """This machine's clock is too far from the store's."""


class EverythingRefused(Transient):
    """The store refuses every segment of the run."""


class NoRoom(Transient):
    """The spool has no room for what is to be noted in it."""


class Defect(Transient):
    """Something that nobody foresaw."""

    cause = "defect"


class Unauthorized(StreamError):
    """The token is wrong or revoked."""

    cause = "token refused"


class CredentialsRefused(StreamError):
    """S3 refuses the credentials (expired, revoked, unknown, or not allowed).

    `is_about_keys`: it says that it is the keys, and not only that access is denied.
    """

    def __init__(self, message: str, *, hint: str = "", is_about_keys: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.is_about_keys = is_about_keys


class Refused(StreamError):
    """A permanent refusal. `status` is the HTTP status, `answer` the beginning of the body.

    `keys`: the top-level keys of what was sent that the answer complains about, where it names any.
    """

    def __init__(
        self, message: str, *, status: int, answer: str = "", hint: str = "", keys: frozenset[str] = frozenset()
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.answer = answer
        self.keys = keys


class RunUnknown(Refused):
    """The service does not know this run (any more)."""


class AlreadyFinished(Refused):
    """The run was finished before."""


class SegmentRefused(Refused):
    """The store will never take this object. `code` is S3's own word for why, where it gave one."""

    def __init__(self, message: str, *, status: int, code: str = "", hint: str = "") -> None:
        super().__init__(message, status=status, answer=code, hint=hint)
        self.code = code


class SegmentTooLarge(SegmentRefused):
    """The store, or what stands before it, takes no object of this size."""


class Parked(StreamError):
    """The run needs a person's decision before it can go on."""
