"""Which certificate authorities are trusted: the same for every connection, to the service, to S3 and to STS.

Each of the usual variables counts, whichever library it was made for. Where they name several files (some machines set
all of them to the system's, and a user adds one), the authorities of all are trusted.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from streaming.errors import Unreachable

VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE", "CURL_CA_BUNDLE")


def certificates(url: str) -> str | bool:
    """The file of trusted authorities that the environment names; True for the usual ones, or if `url` needs none.

    Raises Unreachable if one is not there: to go on with other authorities would only fail with a less clear word.
    """
    if url.startswith("http://"):
        return True
    paths = sorted({os.path.realpath(path) for path in named(os.environ).values()})
    if not paths:
        return True
    if len(paths) == 1 and os.path.isfile(paths[0]):
        return paths[0]
    return _together(tuple((path, os.stat(path).st_mtime_ns) for path in paths)).path


def named(environment: Mapping[str, str]) -> dict[str, str]:
    """The path that each variable names. Raises Unreachable for one that does not exist."""
    found = {variable: environment[variable] for variable in VARIABLES if environment.get(variable)}
    for variable, path in found.items():
        if not os.path.exists(path):
            raise Unreachable(
                f"{variable} names {path}, which does not exist",
                cause="certificates",
                hint=f"let {variable} name a file of trusted certificates (PEM), or unset it",
            )
    return found


class _Together:
    """All certificates of several files in one that has no name and ends with us: every library takes one path."""

    def __init__(self, paths: tuple[str, ...]) -> None:
        self._descriptor = os.memfd_create("certificates")
        self.path = f"/proc/self/fd/{self._descriptor}"
        for path in paths:
            for content in _contents(Path(path)):
                os.write(self._descriptor, content + b"\n")

    def __del__(self) -> None:
        os.close(self._descriptor)


@functools.lru_cache(maxsize=1)
def _together(files: tuple[tuple[str, int], ...]) -> _Together:
    """Made anew when one of them has changed."""
    return _Together(tuple(path for path, _ in files))


def _contents(path: Path) -> Iterator[bytes]:
    """Of a file, or of every file in a folder of certificates."""
    for each in sorted(path.iterdir()) if path.is_dir() else [path]:
        if each.is_file():
            yield each.read_bytes()
