"""The objects below a prefix of an S3 bucket, as runs: for lakes whose service cannot be asked.

A run's objects lie in one folder, named by number. Nobody tells which of them its finish named, and a copy of a spool that
was delivered too has left the same rows in objects of other sizes: a run's rows are unique by content.
"""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Iterator
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
from pyarrow import fs

from streaming import config
from streaming.clients.certificates import certificates
from streaming.errors import BadArgument, NotTheService
from streaming.read.sources import RunFacts, Source
from streaming.tables.csv_text import parse, split_header
from streaming.tables.object_names import order_of, parse_name
from streaming.tables.schema import Kinds, typed

_ITSELF = "."  # the run whose objects lie at the prefix itself


class BucketSource(Source):
    """`s3://bucket/prefix`. Keys come from the environment, as AWS's own tools find them; the endpoint is ours or AWS's."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        place = urlsplit(uri)
        if not place.netloc:
            raise BadArgument(f"{uri} names no bucket", hint="s3://bucket/prefix")
        self._root = f"{place.netloc}{place.path}".rstrip("/")
        self._kept: tuple[str, pa.Table] | None = None

    @cached_property
    def _files(self) -> Any:
        options: dict[str, Any] = {}
        endpoint = config.s3_endpoint_url()
        if endpoint:
            options = {"endpoint_override": urlsplit(endpoint).netloc, "scheme": urlsplit(endpoint).scheme}
        trusted = certificates(endpoint or "https://")
        if isinstance(trusted, str):
            options["tls_ca_file_path"] = trusted
        return fs.S3FileSystem(region=os.environ.get("AWS_REGION", "us-east-1"), **options)

    def _list(self, folder: str, *, recursive: bool) -> list[Any]:
        """The objects below a folder that are named as uploaders name them, in order."""
        try:
            found = self._files.get_file_info(fs.FileSelector(folder, recursive=recursive, allow_not_found=True))
        except OSError as error:
            raise NotTheService(f"{self.uri} cannot be listed ({error})", cause="S3") from error
        named = [entry for entry in found if entry.is_file and parse_name(entry.path).seq is not None]
        return sorted(named, key=lambda entry: order_of(entry.path))

    def runs(self) -> list[RunFacts]:
        folders: dict[str, list[Any]] = {}
        for entry in self._list(self._root, recursive=True):
            folders.setdefault(entry.path.rpartition("/")[0], []).append(entry)
        return [
            RunFacts(
                run=folder.removeprefix(self._root).strip("/") or _ITSELF, state="unknown", version=_version(entries)
            )
            for folder, entries in sorted(folders.items())
        ]

    def schema(self, name: str) -> pa.Schema:
        kinds = Kinds()
        kinds.learn(self._read(name))
        return kinds.schema

    def tables(self, name: str, schema: pa.Schema) -> Iterator[pa.Table]:
        yield typed(self._read(name), schema)

    def _read(self, name: str) -> pa.Table:
        if self._kept is None or self._kept[0] != name:
            self._kept = (name, self._unique_rows(name))
        return self._kept[1]

    def _unique_rows(self, name: str) -> pa.Table:
        entries = self._list(self._root if name == _ITSELF else f"{self._root}/{name}", recursive=False)
        tables, lines = [], []
        for text in dict.fromkeys(map(self._text, entries)):
            parsed = parse(*split_header(text))
            tables.append(parsed.table)
            lines.append(parsed.lines)
        if not tables:
            raise BadArgument(f"no run {name!r} below {self.uri}")
        codes = pa.chunked_array(lines, pa.binary()).combine_chunks().dictionary_encode().indices
        _, first = np.unique(codes.to_numpy(), return_index=True)
        return pa.concat_tables(tables, promote_options="permissive").take(np.sort(first))

    def _text(self, entry: Any) -> bytes:
        try:
            with self._files.open_input_stream(entry.path, compression=None) as stream:
                return gzip.decompress(stream.read())
        except (OSError, EOFError) as error:
            raise NotTheService(f"{entry.path} cannot be read ({error})", cause="S3") from error


def _version(entries: list[Any]) -> str:
    listed = repr([(entry.path, entry.size, entry.mtime_ns) for entry in entries])
    return hashlib.sha256(listed.encode()).hexdigest()
