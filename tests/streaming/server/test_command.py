"""`tracker-stream server`, each command as a process of its own, in front of moto."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from tests.support.processes import ROOT

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def server(tmp_path: Path, moto_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    monkeypatch.setenv("TRACKER_STREAM_SERVER_DIR", str(tmp_path / "server"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAADMIN")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "moto-secret-key")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        more = ("--port", "0", "--s3-endpoint", moto_url, "--s3-bucket", "cli") if arguments[0] == "up" else ()
        command = [sys.executable, "-m", "streaming", "server", *arguments, *more]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    yield run
    run("down")


@pytest.fixture
def foreground(server: Command, moto_url: str) -> Iterator[subprocess.Popen[str]]:
    """`server up --foreground` that has said that it is up."""
    options = ("--foreground", "--port", "0", "--s3-endpoint", moto_url, "--s3-bucket", "cli")
    command = [sys.executable, "-m", "streaming", "server", "up", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "is up" in process.stdout.readline()
        yield process
        process.kill()


def without_link(text: str) -> str:
    return re.sub(r"#ticket=\S+", "", text)


def exports(text: str) -> dict[str, str]:
    words = [shlex.split(line) for line in text.splitlines()]
    assert all(word[0] == "export" for word in words)
    return dict(word[1].split("=", 1) for word in words)


def test_without_the_extra_a_command_says_what_to_install(tmp_path: Path) -> None:
    program = "import sys; sys.modules['cryptography'] = None; from streaming.cli import main; main()"
    command = [sys.executable, "-c", program, "server", "status", "--dir", str(tmp_path)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
    assert told.returncode == 1
    assert told.stderr == "Error: cryptography is missing: install tracker-stream[server].\n"


def test_up_env_status_down(server: Command, tmp_path: Path) -> None:
    up = server("up")
    assert up.returncode == 0, up.stderr
    assert "bound to 127.0.0.1" in up.stdout
    assert 'eval "$(tracker-stream server env)"' in up.stdout
    again = server("up")
    assert (without_link(again.stdout), again.stderr) == (without_link(up.stdout), "")
    other = server("up", "--credential-lifetime", "7", "--host", "0.0.0.0").stderr
    assert "keeps the --host, --credential-lifetime that it was started with" in other

    environment = exports(server("env").stdout)
    assert environment == json.loads(server("env", "--json").stdout)
    token = Path(environment["SENTINEL_API_TOKEN_FILE"]).read_text().strip()
    assert token not in up.stdout
    answer = requests.post(
        environment["SENTINEL_API_URL"] + "/runs", json={}, headers={"Authorization": f"Bearer {token}"}, timeout=60
    )
    assert answer.status_code == 201

    status = server("status", "--json")
    assert status.returncode == 0
    assert json.loads(status.stdout)["processes"]["api"]["running"] is True

    down = server("down")
    assert (down.returncode, down.stdout) == (0, "The server is down.\n")
    assert server("status").returncode == 1
    assert server("down").stdout == "The server was not up.\n"
    with pytest.raises(requests.ConnectionError):
        requests.get(environment["SENTINEL_API_URL"] + "/health", timeout=60)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_foreground_stays_until_a_signal_and_ends_everything(
    server: Command, foreground: subprocess.Popen[str], number: signal.Signals
) -> None:
    status = json.loads(server("status", "--json").stdout)
    assert status["up"] is True
    foreground.send_signal(number)
    assert foreground.wait(60) == 0
    assert server("status").returncode == 1
    with pytest.raises(requests.ConnectionError):
        requests.get(status["api_url"] + "/health", timeout=60)


def test_foreground_says_so_when_the_server_is_ended_elsewhere(
    server: Command, foreground: subprocess.Popen[str]
) -> None:
    assert server("down").returncode == 0
    _, errors = foreground.communicate(timeout=60)
    assert foreground.returncode == 1
    assert "has ended" in errors


def test_env_of_a_server_that_is_down_prints_nothing_to_evaluate(server: Command) -> None:
    env = server("env")
    assert (env.returncode, env.stdout) == (1, "")
    assert "server up" in env.stderr


def test_a_token_is_printed_once_and_refused_after_revoke(server: Command) -> None:
    token = server("token", "add", "ann").stdout.strip()
    assert server("token", "add", "ann").returncode == 1
    listed = server("token", "list").stdout
    assert "ann" in listed
    assert token not in listed
    assert server("token", "revoke", "ann").returncode == 0
    assert "revoked" in server("token", "list").stdout
    assert "no valid token" in server("token", "revoke", "ann").stderr


def test_binding_elsewhere_says_what_it_means(server: Command) -> None:
    up = server("up", "--host", "0.0.0.0")
    assert up.returncode == 0
    assert "unencrypted" in up.stderr
    assert "127.0.0.1" in up.stdout


def test_a_directory_that_is_a_file_is_one_clear_error(server: Command, tmp_path: Path) -> None:
    (tmp_path / "server").write_text("")
    up = server("up")
    assert up.returncode != 0
    assert "Traceback" not in up.stderr
    assert str(tmp_path / "server") in up.stderr


def test_another_s3_without_keys_is_one_clear_error(server: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    up = server("up")
    assert up.returncode == 2
    assert "AWS_SECRET_ACCESS_KEY" in up.stderr


def test_what_is_left_of_a_broken_server_is_ended_by_up(server: Command) -> None:
    assert server("up").returncode == 0
    first = json.loads(server("status", "--json").stdout)
    os.kill(first["processes"]["api"]["pid"], signal.SIGKILL)
    assert server("status").returncode == 1
    assert server("up").returncode == 0
    second = json.loads(server("status", "--json").stdout)
    assert second["up"] is True
    assert second["processes"]["api"]["pid"] != first["processes"]["api"]["pid"]
