"""`doctor`: each line that is not OK says what to do; nothing of a run is sent."""

import json
import os
from importlib import metadata
from pathlib import Path

import pytest

from spool import directory, key
from streaming.cli import doctor_checks as checks
from streaming.cli.doctor_checks import Level, file_system_of
from tests.streaming.cli.conftest import InProcess
from tests.support import faults, spools
from tests.support.far_end import FarEnd
from tests.support.processes import Home


@pytest.fixture
def settings(far_end: FarEnd, monkeypatch: pytest.MonkeyPatch) -> FarEnd:
    for name, text in far_end.environment().items():
        monkeypatch.setenv(name, text)
    return far_end


def findings(cli: InProcess, *arguments: str) -> dict[str, dict[str, str]]:
    document = json.loads(cli("doctor", "--json", *arguments).stdout)
    assert document["schema_version"] == 1
    return {finding["check"]: finding for finding in document["findings"]}


def test_all_is_well(cli: InProcess, settings: FarEnd) -> None:
    result = cli("doctor")
    assert result.exit_code == 0, result.stdout
    lines = result.stdout.splitlines()
    assert all(line.startswith(("OK ", "WARN", "      ->")) for line in lines)
    for check in ("spool directory", "commit", "sampler", "token", "proxies", "service", "clock", "S3", "packages"):
        assert any(check + ":" in line for line in lines), check
    assert "accepts the token" in result.stdout
    assert {entry.kind for entry in settings.journal.requests()} <= {"refresh", "region"}
    assert settings.token not in result.stdout


def test_every_finding_that_is_not_ok_says_what_to_do(cli: InProcess, settings: FarEnd) -> None:
    settings.down()
    for finding in findings(cli).values():
        assert finding["level"] == "OK" or finding["hint"], finding


def test_refused_token_fails(cli: InProcess, settings: FarEnd) -> None:
    settings.revoke_token()
    result = cli("doctor")
    assert result.exit_code == 1
    assert "refuses the token" in result.stdout


def test_unreachable_service_and_s3_fail_with_their_cause(cli: InProcess, settings: FarEnd) -> None:
    settings.down()
    found = findings(cli)
    assert (found["service"]["level"], found["S3"]["level"]) == ("FAIL", "FAIL")
    assert "(refused)" in found["service"]["text"]
    assert "server up" in found["S3"]["hint"]


def test_silent_service_is_given_up_soon(cli: InProcess, settings: FarEnd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "NETWORK_DEADLINE_S", 0.5)
    with settings.always("any", faults.silent()):
        found = findings(cli)
    assert "timeout" in found["service"]["text"]
    assert "timeout" in found["S3"]["text"]


def test_captive_portal_is_named(cli: InProcess, settings: FarEnd) -> None:
    with settings.always("refresh", faults.captive_portal()):
        assert "open any page in a browser" in findings(cli)["service"]["hint"]


@pytest.mark.parametrize(
    ("skew_s", "level", "words"), [(0, "OK", "within"), (300, "WARN", "behind"), (-3600, "FAIL", "ahead")]
)
def test_clock_skew(cli: InProcess, settings: FarEnd, skew_s: float, level: str, words: str) -> None:
    settings.clock_skew_s = skew_s
    found = findings(cli)["clock"]
    assert found["level"] == level
    assert words in found["text"]


def test_without_token_it_warns_and_still_looks_at_the_service(
    cli: InProcess, settings: FarEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SENTINEL_API_TOKEN")
    found = findings(cli)
    assert (found["token"]["level"], found["service"]["level"]) == ("WARN", "OK")
    assert "runs are recorded and kept" in found["token"]["text"]


def test_token_file_that_others_may_read_is_warned_of(
    home: Home, cli: InProcess, settings: FarEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SENTINEL_API_TOKEN")
    file = home.path / "token"
    file.write_text(settings.token)
    file.chmod(0o644)
    found = findings(cli, "--token-file", str(file))["token"]
    assert (found["level"], found["hint"]) == ("WARN", f"chmod 600 {file}")
    file.chmod(0o600)
    assert findings(cli, "--token-file", str(file))["token"]["level"] == "OK"


def test_unusable_spool_directory_fails(home: Home, cli: InProcess, settings: FarEnd, tmp_path: Path) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("")
    result = cli("doctor", "--spool-dir", str(occupied))
    assert result.exit_code == 1
    assert "is a file" in result.stdout
    assert "TRACKER_STREAM_DIR" in result.stdout


def test_nothing_is_left_in_the_spool_directory(home: Home, cli: InProcess, settings: FarEnd) -> None:
    cli("doctor")
    assert os.listdir(home.spool_dir) == [directory.MARK_NAME]


def test_another_package_named_streaming_fails(
    cli: InProcess, settings: FarEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = {"streaming": ["tracker-stream", "mosaicml-streaming"]}
    monkeypatch.setattr(metadata, "packages_distributions", lambda: both)
    found = findings(cli)["packages"]
    assert found["level"] == "FAIL"
    assert "mosaicml-streaming" in found["text"]
    assert "separate environments" in found["hint"]


def test_password_of_a_proxy_is_not_shown(cli: InProcess, settings: FarEnd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://user:canary-password@proxy.example:3128")
    result = cli("doctor")
    assert "proxy.example:3128" in result.stdout
    assert "canary-password" not in result.stdout


def test_check_that_breaks_does_not_stop_the_others(
    cli: InProcess, settings: FarEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_patient: object) -> list[object]:
        raise RuntimeError("broken")

    monkeypatch.setitem(checks.CHECKS, "sampler", broken)  # type: ignore[arg-type]
    found = findings(cli)
    assert found["sampler"]["level"] == Level.FAIL.value
    assert found["service"]["level"] == "OK"


def test_file_system_is_that_of_the_nearest_mount(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text("a / ext4 rw 0 0\nb /home nfs4 rw 0 0\nc /home/scratch\\040disk tmpfs rw 0 0\n")
    assert file_system_of(Path("/etc"), mounts) == "ext4"
    assert file_system_of(Path("/home/ada"), mounts) == "nfs4"
    assert file_system_of(Path("/homework"), mounts) == "ext4"
    assert file_system_of(Path("/home/scratch disk/x"), mounts) == "tmpfs"
    assert file_system_of(Path("/etc"), tmp_path / "none") is None


def test_run_whose_file_is_whole_and_one_whose_is_not(cli: InProcess, home: Home) -> None:
    whole, damaged = (spools.filled(home.spool_dir, [b"1,one\n", b"2,two\n"]) for _ in range(2))
    assert cli("doctor", whole.stem).exit_code == 0
    spools.flip_bit(damaged, spools.offset_of(damaged, b"2,two"), 1)
    result = cli("doctor", damaged.stem, whole.stem)
    assert result.exit_code == 1
    assert "batches 2 to 2: checksum mismatch" in result.stdout
    assert "tracker-stream drain" in result.stdout
    assert f"{whole} is whole" in result.stdout


def test_key_that_others_may_read_proves_nothing_and_is_told(cli: InProcess, settings: FarEnd) -> None:
    assert findings(cli)["key"]["level"] == "OK"
    place = key.path()
    assert place is not None
    place.chmod(0o644)
    found = findings(cli)["key"]
    assert found["level"] == "WARN"
    assert "mode 0600" in found["hint"]


def test_certificates_that_are_not_there_fail_and_others_are_named(
    cli: InProcess, settings: FarEnd, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "no-ca.pem"))
    assert findings(cli)["certificates"]["level"] == "FAIL"
    (tmp_path / "no-ca.pem").touch()
    assert findings(cli)["certificates"]["text"] == f"SSL_CERT_FILE={tmp_path / 'no-ca.pem'}"
