"""A far end in a process of its own, commanded by JSON lines on stdin, answering by JSON lines on stdout.

    $ python -m tests.support.far_end --port 0 --s3-port 0 --journal FILE
    {"api_url": ..., "s3_endpoint_url": ..., "token": ...}
    < {"do": "always", "kind": "put", "fault": "answer", "with": {"status": 503}}
    > {"ok": true}

Commands: `always`, `fail_next` (+ "times"), `nth` (+ "number"), `clear`, `poison` (+ "key_part"), `reject_all`, `down`,
`up` (+ "door"), `reset_connections`, `expire_now`, `revoke`, `revoke_token`, `rotate_token`, `accept_token`
(+ "token"), `set` (+ "name", "to": clock_skew_s, credentials_lifetime_s), `state`, `stop`. It ends at `stop`, or when
its stdin ends.
"""

import argparse
import base64
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.faults import BY_NAME
from tests.support.oracle import Evidence

SETTABLE = {"clock_skew_s", "credentials_lifetime_s"}
PLAIN = ("reset_connections", "expire_now", "revoke", "revoke_token", "rotate_token")
ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    from tests.support.far_end import FarEnd

    options = _options()
    with FarEnd(
        token=options.token, port=options.port, s3_port=options.s3_port, journal_file=options.journal
    ) as far_end:
        where = {"api_url": far_end.api_url, "s3_endpoint_url": far_end.s3_endpoint_url, "token": far_end.token}
        print(json.dumps(where), flush=True)
        for line in sys.stdin:
            command = json.loads(line)
            if command["do"] == "stop":
                return
            print(json.dumps(_answer(far_end, command)), flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.support.far_end", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="of the Sentinel API (0: any)")
    parser.add_argument("--s3-port", type=int, default=0, help="of S3 (0: any)")
    parser.add_argument("--token", help="bearer token (default: a new one)")
    parser.add_argument("--journal", type=Path, help="file of JSON lines, without secrets")
    return parser.parse_args()


def _answer(far_end: Any, command: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"ok": True, "result": _obey(far_end, dict(command))}
    except (KeyError, TypeError, ValueError) as error:
        return {"ok": False, "error": f"{type(error).__name__}: {error}"}


def _obey(far_end: Any, command: dict[str, Any]) -> Any:
    verb = command.pop("do")
    if verb in ("always", "fail_next", "nth"):
        fault = BY_NAME[command.pop("fault")](**command.pop("with", {}))
        getattr(far_end, verb)(command.pop("kind"), fault=fault, **command)
        return None
    if verb in PLAIN:
        return getattr(far_end, verb)()
    if verb in ("clear", "down", "up", "accept_token"):
        return getattr(far_end, verb)(**command)
    if verb in ("poison", "reject_all"):
        getattr(far_end, verb)(**command)
        return None
    return _inspect(far_end, verb, command)


def _inspect(far_end: Any, verb: str, command: dict[str, Any]) -> Any:
    if verb == "set" and command["name"] in SETTABLE:
        setattr(far_end, command["name"], command["to"])
        return None
    if verb == "state":
        return state(far_end)
    raise ValueError(f"unknown command {verb!r} {command}")


def state(far_end: Any) -> dict[str, Any]:
    objects = {uri: base64.b64encode(content).decode() for uri, content in far_end.objects.items()}
    history = {uri: list(digests) for uri, digests in far_end.store.history.items()}
    runs = [{"run_id": run.run_id, "prefix": run.upload_uri_prefix, "finish": run.finish} for run in far_end.runs]
    metadata = [run.metadata for run in far_end.runs]
    secrets, requests = far_end.secrets(), far_end.journal.count()
    return {"objects": objects, "history": history, "runs": runs, "metadata": metadata} | {
        "secrets": secrets,
        "requests": requests,
    }


@dataclass
class RemoteFarEnd:
    """The same, from the other side: `far_end.do("down", door="s3")`, `far_end.evidence(run_id)`."""

    process: "subprocess.Popen[bytes]"
    api_url: str
    s3_endpoint_url: str
    token: str

    @classmethod
    def start(cls, *options: str) -> "RemoteFarEnd":
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.far_end", *options],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        return cls(process, **json.loads(_line(process)))

    def do(self, verb: str, **command: Any) -> Any:
        """Send one command; returns its result, raises ValueError with the far end's words when refused."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": verb, **command}).encode() + b"\n")
        self.process.stdin.flush()
        answer = json.loads(_line(self.process))
        if not answer["ok"]:
            raise ValueError(answer["error"])
        return answer["result"]

    def evidence(self, run_id: str) -> Evidence:
        now = self.do("state")
        run = next(run for run in now["runs"] if run["run_id"] == run_id)
        objects = {uri: base64.b64decode(text) for uri, text in now["objects"].items()}
        return Evidence(objects, run["finish"], run["prefix"], now["history"])

    def stop(self) -> None:
        """Close its stdin: it ends."""
        self.process.communicate(timeout=60)

    def __enter__(self) -> "RemoteFarEnd":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _line(process: "subprocess.Popen[bytes]") -> bytes:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"the far end's process ended with {process.wait()}")
    return line
