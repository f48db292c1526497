"""A whole server as one object: for tests, the demo, the benchmark, and `tracker-stream server up`."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from spool.whole_files import write_private
from streaming.server.errors import ServerError, StartFailed
from streaming.server.process.api import start_api, url_of
from streaming.server.process.directory import ServerDirectory
from streaming.server.process.guarded import Guarded
from streaming.server.process.ports import free_port
from streaming.server.process.seaweedfs import SeaweedFS
from streaming.server.process.trial import try_store
from streaming.server.settings import DEFAULT_BUCKET, DEFAULT_CREDENTIAL_LIFETIME_S, ApiSettings, S3Settings
from streaming.server.storage.database import ServerDatabase
from streaming.server.storage.objects import Bucket
from streaming.server.storage.runs import RegisteredRun, RunStore
from streaming.server.storage.tokens import DEFAULT_TOKEN_NAME, TokenStore

_PORT_TRIES = 3


class EmbeddedServer:
    """The API and (unless another S3 is given) SeaweedFS, each a real process of its own.

    Not detached, both end when this process ends, however it ends. All state is in `directory`; starting again there
    finds the same runs, token, and objects.
    """

    def __init__(
        self,
        directory: Path | str,
        *,
        credential_lifetime_s: int = DEFAULT_CREDENTIAL_LIFETIME_S,
        host: str = "127.0.0.1",
        port: int = 0,
        bucket: str = DEFAULT_BUCKET,
        s3: S3Settings | None = None,
        detach: bool = False,
    ) -> None:
        self.directory = ServerDirectory(directory)
        self.directory.prepare()
        self._detach = detach
        self._any_port = port == 0
        self._seaweedfs = None if s3 else SeaweedFS(self.directory, bucket=bucket)
        self._database = ServerDatabase(self.directory.database)
        self.tokens = TokenStore(self._database)
        self._runs = RunStore(self._database)
        self.token = self._default_token()
        self.warnings: list[str] = []
        self.api_process: Guarded | None = None
        self.s3_process: Guarded | None = None
        self.settings = ApiSettings(
            directory=str(self.directory.path),
            instance=secrets.token_hex(8),
            s3=s3 or self._own_s3_settings(),
            host=host,
            port=port or free_port(host),
            credential_lifetime_s=credential_lifetime_s,
        )

    @property
    def api_url(self) -> str:
        return url_of(self.settings.host, self.settings.port)

    @property
    def s3_endpoint_url(self) -> str | None:
        """None means AWS."""
        return self.settings.s3.endpoint_url

    @property
    def bucket(self) -> str:
        return self.settings.s3.bucket

    @property
    def token_file(self) -> Path:
        return self.directory.token_file

    @property
    def s3_is_embedded(self) -> bool:
        return self._seaweedfs is not None

    def is_running(self) -> bool:
        """Whether every process of it runs."""
        processes = [self.api_process, *([self.s3_process] if self._seaweedfs else [])]
        return all(process is not None and process.is_running() for process in processes)

    def environment(self) -> dict[str, str]:
        """What a client needs in its environment, all but the token itself."""
        return {
            "SENTINEL_API_URL": self.api_url,
            "SENTINEL_API_TOKEN_FILE": str(self.token_file),
            **({"SENTINEL_S3_ENDPOINT_URL": self.s3_endpoint_url} if self.s3_endpoint_url else {}),
        }

    def start(self) -> None:
        """Start what is not running; returns when both take requests. Raises StartFailed, with nothing left running."""
        try:
            self._start_s3_first_time()
            self._start_api_first_time()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End both processes; harmless when they are gone."""
        self.stop_api()
        self.stop_s3()

    def let_go(self) -> None:
        """Its processes outlive us from now on."""
        for process in (self.api_process, self.s3_process):
            if process:
                process.let_go()

    def stop_api(self) -> None:
        """SIGKILL the API: connections are refused from now on."""
        if self.api_process:
            self.api_process.kill()
            self.api_process = None

    def start_api(self) -> None:
        """Bring the API back on the same port."""
        if self.api_process is None:
            self.api_process = start_api(self.directory, self.settings, detach=self._detach)

    def stop_s3(self) -> None:
        """SIGKILL SeaweedFS: connections are refused from now on."""
        if self.s3_process:
            self.s3_process.kill()
            self.s3_process = None

    def start_s3(self) -> None:
        """Bring SeaweedFS back on the same ports, with the same objects and keys."""
        if self._seaweedfs is None:
            raise ServerError("The S3 of this server is not embedded.")
        if self.s3_process is None:
            self.s3_process = self._seaweedfs.start(detach=self._detach, keep_port=True)

    def runs(self) -> list[RegisteredRun]:
        """All runs of all tokens, the newest first."""
        return self._runs.of_token(None)

    def run(self, run_id: str) -> RegisteredRun:
        """The run as the service holds it: metadata, finish, statistics. Raises ServerError if there is none."""
        run = self._runs.get(run_id)
        if run is None:
            raise ServerError(f"There is no run {run_id}.")
        return run

    def inline_csv(self, run_id: str) -> bytes | None:
        """The CSV that came with an inline finish."""
        return self._runs.inline_csv(run_id)

    def read_objects(self, run_id_or_prefix: str = "") -> list[tuple[str, bytes]]:
        """Key and bytes (gzip, as uploaded) of every object of a run, or below a key prefix or s3:// URI, sorted by key."""
        with Bucket(self.settings.s3) as store:
            found = list(store.list(self._prefix(run_id_or_prefix)))
            return [(entry.key, store.read(entry.key)) for entry in found]

    def _prefix(self, text: str) -> str:
        run = self._runs.get(text) if text else None
        return f"{run.prefix}/" if run else text.removeprefix(f"s3://{self.bucket}/")

    def _start_s3_first_time(self) -> None:
        if self._seaweedfs and self.s3_process is None:
            self.s3_process = self._seaweedfs.start(detach=self._detach)
            self.settings = replace(self.settings, s3=self._seaweedfs.settings)
        elif self._seaweedfs is None:
            self.warnings = try_store(self.settings)

    def _start_api_first_time(self) -> None:
        """Another process may take a port that we found free: try others, unless the port was asked for."""
        for _ in range(_PORT_TRIES - 1):
            try:
                return self.start_api()
            except StartFailed:
                if not self._any_port:
                    raise
                self.settings = replace(self.settings, port=free_port(self.settings.host))
        return self.start_api()

    def _own_s3_settings(self) -> S3Settings:
        assert self._seaweedfs is not None
        return self._seaweedfs.settings

    def _default_token(self) -> str:
        """From its file; a new one replaces that of a file that is lost, or holds none that is valid."""
        with contextlib.suppress(FileNotFoundError, UnicodeDecodeError):
            token = self.token_file.read_text(encoding="ascii").strip()
            if self.tokens.find(token):
                return token
        if any(token.name == DEFAULT_TOKEN_NAME and not token.revoked_at for token in self.tokens.list()):
            self.tokens.revoke(DEFAULT_TOKEN_NAME)
        token = self.tokens.add(DEFAULT_TOKEN_NAME)
        write_private(self.token_file, f"{token}\n".encode())
        return token


@contextlib.contextmanager
def embedded(
    directory: Path | str,
    *,
    credential_lifetime_s: int = DEFAULT_CREDENTIAL_LIFETIME_S,
    port: int = 0,
    s3: S3Settings | None = None,
) -> Iterator[EmbeddedServer]:
    """A running server for the length of a `with` block (up in 5 to 10 s); nothing of it is left running after."""
    server = EmbeddedServer(directory, credential_lifetime_s=credential_lifetime_s, port=port, s3=s3)
    try:
        server.start()
        yield server
    finally:
        server.stop()
