"""What is told about a run when it is registered."""

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from spool import Spool
from streaming.collect import metadata
from tests.support import plays
from tests.support.processes import Home


def payload(tmp_path: Path, **known: Any) -> dict[str, Any]:
    """What is told of a run whose own tag `run` keeps our name for it out."""
    given = {"tags": {"run": "mine"}, **known.pop("metadata", {})}
    told = named_payload(tmp_path, metadata=given, **known)
    if told["tags"] == {"run": "mine"}:
        del told["tags"]
    return told


def named_payload(tmp_path: Path, **known: Any) -> dict[str, Any]:
    with closing(Spool.create(tmp_path / "spools", replace(plays.new_run(), **known))) as spool:
        return metadata.payload(spool.run(), name="48eef9a2")


def test_metadata_host_and_cloud_are_one_flat_object_without_nothings(tmp_path: Path, home: Home) -> None:
    told = payload(
        tmp_path,
        metadata={"job_name": "train", "team": None, "tags": {"fold": "3"}},
        host_info={"host_vcpus": 2},
        cloud_info={"cloud_vendor_id": "aws"},
    )
    assert told == {"job_name": "train", "tags": {"fold": "3", "run": "48eef9a2"}, "host_vcpus": 2} | {
        "cloud_vendor_id": "aws"
    }


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, {"run": "48eef9a2"}),
        ({"tags": {"run": "mine"}}, {"run": "mine"}),
        ({"tags": ["a", "b=c"]}, ["a", "b=c", "run=48eef9a2"]),
        ({"tags": "neither"}, "neither"),
    ],
)
def test_run_goes_by_its_own_name_unless_the_user_has_such_a_tag(
    tmp_path: Path, home: Home, given: dict[str, Any], told: Any
) -> None:
    assert named_payload(tmp_path, metadata=given)["tags"] == told


def test_what_identifies_the_host_is_told_only_on_request(
    tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = {"host_id": "i-1", "host_hostname": "n", "host_ip": "10.0.0.1", "host_vcpus": 2}
    assert payload(tmp_path, host_info=host) == {"host_vcpus": 2}
    monkeypatch.setenv("TRACKER_SEND_HOST_IDENTITY", "1")
    assert payload(tmp_path, host_info=host) == host


def test_former_names_of_host_fields_go_by_the_present_ones(
    tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = {"host_name": "n", "host_allocation": "dedicated", "host_gpu_vram_mib": 80}
    told = payload(tmp_path, host_info=host)
    assert told == {"host_server_allocation": "dedicated", "host_gpu_memory_mib": 80}
    monkeypatch.setenv("TRACKER_SEND_HOST_IDENTITY", "1")
    assert payload(tmp_path, host_info=host) == {**told, "host_hostname": "n"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["python", "train.py"], ["python", "train.py"]),
        ("python train.py --name 'a b'", ["python", "train.py", "--name", "a b"]),
        ("echo 'unbalanced", ["echo 'unbalanced"]),
        ([], []),
    ],
)
def test_command_is_a_text_that_holds_a_json_array(given: str | list[str], words: list[str]) -> None:
    assert json.loads(metadata.command_text(given)) == words


def test_what_json_cannot_hold_becomes_its_text() -> None:
    assert metadata.jsonable({"path": Path("/a"), "count": 1}) == {"path": "/a", "count": 1}
    assert metadata.jsonable(None) is None


def test_command_is_recorded_without_its_secrets() -> None:
    words = ["train", "--token", "canary-secret", "--epochs", 3]
    assert metadata.recorded({"command": words, "team": "a"}) == {
        "command": ["train", "--token", "***", "--epochs", "3"],
        "team": "a",
    }
    assert metadata.recorded({"command": "train --token=canary-secret"}) == {"command": "train --token=***"}
    assert metadata.recorded(None) == {}


def test_what_is_no_text_or_no_utf8_is_made_one_so_that_no_service_refuses_the_run() -> None:
    found = metadata.jsonable({"job_name": "a\udcff", "tags": {"k": "\ud800"}})
    assert found == {"job_name": "a?", "tags": {"k": "?"}}


def test_number_is_a_text_where_the_service_takes_texts_only(tmp_path: Path, home: Home) -> None:
    told = payload(tmp_path, metadata={"external_run_id": 12345, "tags": {"fold": 3}}, host_info={"host_vcpus": 2})
    assert told == {"external_run_id": "12345", "tags": {"fold": 3, "run": "48eef9a2"}, "host_vcpus": 2}
