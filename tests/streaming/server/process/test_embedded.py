"""The API as a process of its own (in front of moto): killed, brought back, left alone by its starter's death."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from streaming.server import EmbeddedServer, embedded
from streaming.server.process.guarded import ProcessId
from streaming.server.settings import S3Settings
from tests.support.processes import ROOT

CSV = '"timestamp","system_cpu_usage"\n10.0,0.5\n'
FINISH = {"data_source": "inline", "data_csv": CSV, "run_status": "finished", "exit_code": 0}


@pytest.fixture
def server(tmp_path: Path, s3: S3Settings) -> Iterator[EmbeddedServer]:
    with embedded(tmp_path / "server", s3=s3) as made:
        yield made


def post(server: EmbeddedServer, path: str, body: object = None, **headers: str) -> requests.Response:
    headers = {"Authorization": f"Bearer {server.token}", **headers}
    return requests.post(server.api_url + path, json=body, headers=headers, timeout=60)


def test_sigkill_loses_no_acknowledged_run_and_no_finish(server: EmbeddedServer) -> None:
    url = server.api_url
    finished = post(server, "/runs", {"job_name": "a"}).json()["run_id"]
    assert post(server, f"/runs/{finished}/finish", FINISH).status_code == 200
    registered = post(server, "/runs", {"job_name": "b"}, **{"Idempotency-Key": "k"}).json()["run_id"]
    server.stop_api()
    with pytest.raises(requests.ConnectionError):
        post(server, "/runs", {})
    server.start_api()
    assert server.api_url == url
    assert post(server, f"/runs/{finished}/finish", FINISH).status_code == 409
    assert post(server, "/runs", {}, **{"Idempotency-Key": "k"}).json()["run_id"] == registered
    assert server.run(finished).run_status == "finished"
    assert server.inline_csv(finished) == CSV.encode()


def test_the_same_directory_has_the_same_token_and_runs(tmp_path: Path, s3: S3Settings) -> None:
    with embedded(tmp_path / "server", s3=s3) as first:
        run_id = post(first, "/runs", {"job_name": "a"}).json()["run_id"]
    with embedded(tmp_path / "server", s3=s3) as second:
        assert second.token == first.token
        assert [run.run_id for run in second.runs()] == [run_id]


def test_a_lost_token_file_is_replaced_and_the_old_token_refused(tmp_path: Path, s3: S3Settings) -> None:
    old = EmbeddedServer(tmp_path / "server", s3=s3).token
    (tmp_path / "server" / "token").unlink()
    made = EmbeddedServer(tmp_path / "server", s3=s3)
    assert made.token != old
    assert made.tokens.find(old) is None


def test_what_it_keeps_is_for_its_owner_only(server: EmbeddedServer) -> None:
    modes = {path.name: path.stat().st_mode & 0o777 for path in server.directory.path.iterdir()}
    assert {modes[name] for name in ("token", "server.db", "api.log")} == {0o600}
    assert server.directory.path.stat().st_mode & 0o777 == 0o700


def test_no_key_and_no_token_is_in_the_processes_arguments_or_environment(server: EmbeddedServer) -> None:
    assert server.api_process is not None
    for process in (server.api_process.guard, server.api_process.command):
        for name in ("cmdline", "environ"):
            seen = Path(f"/proc/{process.pid}/{name}").read_bytes()
            assert server.token.encode() not in seen
            assert server.settings.s3.secret_key.encode() + b"\0" not in seen


def test_killing_the_starter_ends_the_server(tmp_path: Path, s3: S3Settings) -> None:
    program = (
        "import json, sys, time\n"
        "from streaming.server import EmbeddedServer\n"
        "from streaming.server.settings import S3Settings\n"
        "server = EmbeddedServer(sys.argv[1], s3=S3Settings(**json.loads(sys.argv[2])))\n"
        "server.start()\n"
        "print(json.dumps(server.api_process.as_json()), flush=True)\n"
        "time.sleep(60)\n"
    )
    arguments = [sys.executable, "-c", program, str(tmp_path / "server"), json.dumps(vars(s3))]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, cwd=ROOT) as starter:
        assert starter.stdout is not None
        pids = json.loads(starter.stdout.readline())
        os.kill(starter.pid, signal.SIGKILL)
        for name in ("command", "guard"):
            assert ProcessId(**pids[name]).wait_ended(10)


def test_killing_the_guard_ends_the_api(server: EmbeddedServer) -> None:
    assert server.api_process is not None
    os.kill(server.api_process.guard.pid, signal.SIGKILL)
    assert server.api_process.command.wait_ended(10)


def test_an_api_that_cannot_start_says_why(tmp_path: Path, s3: S3Settings) -> None:
    from streaming.server.errors import StartFailed

    with embedded(tmp_path / "one", s3=s3) as first:
        second = EmbeddedServer(tmp_path / "two", s3=s3, port=first.settings.port)
        with pytest.raises(StartFailed, match="address already in use"):
            second.start()
        assert not second.is_running()
