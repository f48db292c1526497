"""resource-tracker's own upload path, unchanged but for the address it uploads to. Runs in children.

Its `put_bytes_with_sts` knows only AWS hosts. Here the URL of the finished, signed request is replaced by that of the
local far end, path-style, and nothing else: it reads, compresses, hashes, signs and sends as it always does (over plain
http, as ours does here).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from resource_tracker import ResourceTracker, s3_upload
from resource_tracker.streaming import StreamingManager

from benchmarks.rows import HEADER, PROCESS_HEADER, SYSTEM_HEADER, Rows

NEVER_S = 86_400  # its thread sleeps; the cycles are called one by one


class Peer:
    """A ResourceTracker whose samples are written by us, and its StreamingManager, registered with the far end.

    `SENTINEL_API_URL` in the environment says where the far end is.
    """

    def __init__(self, *, token: str, s3_endpoint_url: str) -> None:
        upload_to(s3_endpoint_url)
        self._rows = Rows()
        self.row_count = 0
        self._tracker: Any = ResourceTracker(discover_server=False, discover_cloud=False)
        self._halves = [Path(self._tracker.process_tracker_filepath), Path(self._tracker.system_tracker_filepath)]
        self._combined = self._halves[0].with_suffix(".combined.csv")
        self._combined.touch()
        self._tracker._combined_csv_filepath = str(self._combined)
        self._streaming: Any = StreamingManager(
            token,
            csv_path=str(self._combined),
            upload_interval=NEVER_S,
            csv_update_fn=self._tracker._update_combined_csv,
        )
        self._streaming.start()
        bucket = urlsplit(self._streaming._upload_uri_prefix).netloc
        s3_upload.bucket_region_cache[bucket] = "us-east-1"

    def record(self, count: int) -> None:
        """Its two trackers write so many samples."""
        numbers = range(self.row_count, self.row_count + count)
        for path, header, row in zip(
            self._halves, (PROCESS_HEADER, SYSTEM_HEADER), (self._rows.process, self._rows.system), strict=True
        ):
            with path.open("ab") as file:
                file.write(b"" if self.row_count else header)
                file.write(b"".join(map(row, numbers)))
        self.row_count += count

    def catch_up(self) -> None:
        """As if all that is recorded had been uploaded already, by cycles that are not measured."""
        with self._combined.open("wb") as file:
            file.write(HEADER)
            for first in range(0, self.row_count, 100_000):
                file.write(self._rows.block(first, min(100_000, self.row_count - first)))
        self._tracker._combined_csv_rows_written = self.row_count
        self._streaming._csv_header = HEADER
        self._streaming._csv_offset = self._combined.stat().st_size

    def cycle(self) -> None:
        """One upload cycle: `_upload_batch`, which calls `_update_combined_csv`. Raises if nothing was uploaded."""
        uploaded = len(self._streaming.uploaded_uris)
        self._streaming._upload_batch()
        if len(self._streaming.uploaded_uris) == uploaded:
            raise RuntimeError("the peer uploaded nothing")


def upload_to(s3_endpoint_url: str) -> None:
    """Replace the URL of its signed requests, and nothing else."""
    opened = s3_upload.urlopen

    def redirected(request: Any, **options: Any) -> Any:
        url = urlsplit(request.full_url)
        bucket = url.netloc.partition(".")[0]
        request.full_url = f"{s3_endpoint_url}/{bucket}{url.path}"
        return opened(request, **options)

    sys.modules[s3_upload.__name__].urlopen = redirected  # type: ignore[attr-defined]
