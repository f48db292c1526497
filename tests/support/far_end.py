"""The scripted far end: the Sentinel API and S3's PUT on real sockets, failing exactly as a test says.

    with FarEnd() as far_end:
        far_end.fail_next("put", faults.reply_lost())
        far_end.always("refresh", faults.answer(503))
        ...
        far_end.journal.wait_for_count("put", 2)
        oracle.judge(far_end.evidence(run_id), ...)

What a request changes and its journal entry are made under one lock, before a byte of the answer leaves: a reply
that is lost is lost exactly. As a process of its own: `python -m tests.support.far_end` (see `remote`).
"""

import re
import tempfile
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support import signature
from tests.support.conversation import Conversation, Knock
from tests.support.faults import Fault, error_xml, s3_error
from tests.support.grants import Grants
from tests.support.journal import Journal, sha256_hex
from tests.support.listener import Listener
from tests.support.object_store import ObjectStore
from tests.support.oracle import Evidence
from tests.support.script import Matching, Rule, Script
from tests.support.service import Run, Service, decode_json
from tests.support.wire import Answer, Head, Request, Wire

RUN_PATH = re.compile(r"/runs/([^/]+)/(refresh-credentials|finish)")
RUN_KINDS = {"refresh-credentials": "refresh", "finish": "finish"}
SERVICE_KINDS = ("register", "refresh", "finish")
S3_CODES = {400: "InvalidRequest", 403: "AccessDenied", 404: "NoSuchBucket", 409: "OperationAborted"} | {
    412: "PreconditionFailed",
    413: "EntityTooLarge",
    429: "SlowDown",
    500: "InternalError",
    503: "SlowDown",
}


class FarEnd:
    """Two doors (`api_url`, `s3_endpoint_url`) to one service and one object store. Up from construction on."""

    def __init__(
        self,
        *,
        token: str | None = None,
        port: int = 0,
        s3_port: int = 0,
        api_path: str = "",
        tls: bool = False,
        certificate_host: str = "127.0.0.1",
        certificate_expired: bool = False,
        verify_signature: bool = False,
        journal_file: Path | None = None,
    ) -> None:
        self.token = token or f"canary-api-token-{uuid.uuid4().hex}"
        self.clock_skew_s = 0.0
        self.api_path = api_path.rstrip("/")
        self.journal = Journal(journal_file)
        self.script = Script()
        self.grants = Grants(self.clock_s)
        self.store = ObjectStore(self.grants, self.clock_s)
        self.store.verifies_signature = verify_signature
        self.service = Service(self.grants, self.store.buckets, self.token)
        self.ca_file: Path | None = None
        self._lock = threading.Lock()
        self._all_tokens = {self.token}
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        context = self._tls_context(certificate_host, expired=certificate_expired) if tls else None
        self.api = Listener(self._converse, port=port, tls=context)
        self.s3 = Listener(self._converse, port=s3_port, tls=context)
        self.up()

    def _tls_context(self, host: str, *, expired: bool) -> Any:
        from tests.support.certificates import server_context  # the one part that is not standard library

        self._directory = tempfile.TemporaryDirectory(prefix="far-end-")
        context, self.ca_file = server_context(Path(self._directory.name), host=host, expired=expired)
        return context

    def __enter__(self) -> "FarEnd":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        self.api.close()
        self.s3.close()
        if self._directory is not None:
            self._directory.cleanup()

    # -- where it is, and whether --------------------------------------------------------------------------------------

    @property
    def api_url(self) -> str:
        return self.api.url + self.api_path

    @property
    def s3_endpoint_url(self) -> str:
        return self.s3.url

    def environment(self) -> dict[str, str]:
        """The settings that point a program at this far end."""
        return {
            "SENTINEL_API_URL": self.api_url,
            "SENTINEL_API_TOKEN": self.token,
            "SENTINEL_S3_ENDPOINT_URL": self.s3_endpoint_url,
        }

    def down(self, door: str = "both") -> None:
        """Refuse connections and reset the open ones, at "api", "s3" or "both"."""
        for listener in self._doors(door):
            listener.down()

    def up(self, door: str = "both") -> None:
        """Listen again, on the same ports."""
        for listener in self._doors(door):
            listener.up()

    def reset_connections(self) -> None:
        for listener in self._doors("both"):
            listener.reset_connections()

    def _doors(self, door: str) -> list[Listener]:
        return {"api": [self.api], "s3": [self.s3], "both": [self.api, self.s3]}[door]

    def clock_s(self) -> float:
        """The far end's own clock: `Date`, expiry and the judgement of `x-amz-date` follow it."""
        return time.time() + self.clock_skew_s

    # -- the fault script ----------------------------------------------------------------------------------------------

    def fail_next(self, kind: str, fault: Fault, *, times: int = 1, matching: Matching | None = None) -> Rule:
        """The next `times` requests of this kind meet the fault; several such calls queue up."""
        return self.script.add(kind, fault, 1, times, matching)

    def nth(self, kind: str, number: int, fault: Fault, *, matching: Matching | None = None) -> Rule:
        """The `number`-th request of this kind from now on (1 is the next) meets the fault."""
        return self.script.add(kind, fault, number, number, matching)

    def always(self, kind: str, fault: Fault, *, matching: Matching | None = None) -> Rule:
        """Every request of this kind, until `rule.clear()`, the end of `with`, or `far_end.clear()`."""
        return self.script.add(kind, fault, 1, None, matching)

    def clear(self, kind: str | None = None) -> None:
        self.script.clear(kind)

    def poison(self, key_part: str, fault: Fault | None = None) -> Rule:
        """Reject every object whose key contains `key_part`, e.g. "/00000003-"."""
        return self.always("put", fault or s3_error("InvalidRequest", 400), matching=lambda head: key_part in head.path)

    def reject_all(self, fault: Fault | None = None) -> Rule:
        return self.always("put", fault or s3_error("InvalidRequest", 400))

    # -- tokens and credentials ----------------------------------------------------------------------------------------

    def rotate_token(self) -> str:
        """A new token is good from now on, the old one is not."""
        self.accept_token(f"canary-api-token-{uuid.uuid4().hex}", only=True)
        return self.token

    def accept_token(self, token: str, *, only: bool = False) -> None:
        self.token = token
        self._all_tokens.add(token)
        with self._lock:
            self.service.tokens = {token} if only else self.service.tokens | {token}

    def revoke_token(self) -> None:
        """401 for everybody, until `accept_token` or `rotate_token`."""
        with self._lock:
            self.service.tokens = set()

    def expire_now(self) -> None:
        """All credentials handed out so far have expired, whatever they claimed: ExpiredToken."""
        with self._lock:
            self.grants.expire_all()

    def revoke(self) -> None:
        """All credentials handed out so far are unknown: InvalidAccessKeyId."""
        with self._lock:
            self.grants.revoke_all()

    @property
    def credentials_lifetime_s(self) -> float:
        return self.grants.lifetime_s

    @credentials_lifetime_s.setter
    def credentials_lifetime_s(self, lifetime_s: float) -> None:
        self.grants.lifetime_s = lifetime_s

    def secrets(self) -> list[str]:
        """Every token and every STS key that was ever valid here: the canaries for `oracle.secret`."""
        keys = ((grant.access_key, grant.secret_key, grant.session_token) for grant in self.grants.all())
        return [*self._all_tokens, *(key for triple in keys for key in triple)]

    # -- what it holds -------------------------------------------------------------------------------------------------

    @property
    def objects(self) -> dict[str, bytes]:
        """A copy of all objects by `s3://` URI."""
        with self._lock:
            return dict(self.store.objects)

    @property
    def runs(self) -> list[Run]:
        """The runs in the order of their registration."""
        with self._lock:
            return list(self.service.runs.values())

    def run(self, run_id: str | None = None) -> Run:
        """That run, or the only one."""
        chosen = [run for run in self.runs if run_id in (None, run.run_id)]
        if len(chosen) != 1:
            raise AssertionError(f"{len(chosen)} runs instead of one; the journal says:\n{self.journal}")
        return chosen[0]

    def forget(self, run_id: str) -> None:
        """The service no longer knows the run: 404."""
        with self._lock:
            del self.service.runs[run_id]

    def evidence(self, run_id: str | None = None) -> Evidence:
        """What the oracle asks for about this (or the only) run."""
        run = self.run(run_id)
        with self._lock:
            history = {uri: list(digests) for uri, digests in self.store.history.items()}
        return Evidence(self.objects, run.finish, run.upload_uri_prefix, history)

    def wait_finished(self, run_id: str | None = None, deadline_s: float = 60.0) -> Run:
        """The run, once the service has taken its finish."""

        def finished(_: Journal) -> bool:
            return any(run.finish is not None for run in self.runs if run_id in (None, run.run_id))

        self.journal.wait_for(finished, deadline_s)
        return self.run(run_id)

    # -- requests ------------------------------------------------------------------------------------------------------

    def _converse(self, wire: Wire) -> None:
        Conversation(wire, self.script, self._kind, self._obey, self.clock_s).run()

    def _kind(self, head: Head) -> str:
        if head.method == "PUT":
            return "put"
        if head.method == "HEAD":
            return "region"
        path = head.path.removeprefix(self.api_path)
        if head.method != "POST" or not head.path.startswith(self.api_path):
            return "other"
        found = RUN_PATH.fullmatch(path)
        return RUN_KINDS[found.group(2)] if found else ("register" if path == "/runs" else "other")

    def _obey(self, knock: Knock, request: Request | None) -> Answer:
        """Do what is asked unless the fault forbids, write the journal, and return the answer."""
        fault = knock.fault
        with self._lock:
            if fault.prepare is not None and request is not None:
                fault.prepare(self.store, request)
            true = self._true_answer(knock, request) if request is not None and fault.stores else None
            answer = self._phrase(knock.kind, fault.answer or true or Answer(503, None))
            if fault.edit is not None and true is not None and true.status < 300:
                answer = fault.edit(answer)
            self._write(knock, request, answer, stored=true is not None and true.status < 300)
        return answer

    def _true_answer(self, knock: Knock, request: Request) -> Answer:
        if knock.kind == "put":
            return self.store.put(request)
        if knock.kind == "region":
            return self.store.region(knock.head)
        if knock.kind in SERVICE_KINDS:
            return self.service.handle(knock.kind, request, self._run_id(knock.head))
        return error_xml(403, "AccessDenied", "Access Denied")

    def _phrase(self, kind: str, answer: Answer) -> Answer:
        """Fill in the usual error body of the door that was knocked at."""
        if answer.body is not None:
            return answer
        if kind in SERVICE_KINDS:
            usual = Answer.of_json(answer.status, {"detail": f"scripted {answer.status}"})
        else:
            usual = error_xml(answer.status, S3_CODES.get(answer.status, "InternalError"), "scripted")
        return Answer(answer.status, usual.body, {**usual.headers, **answer.headers}, answer.declares_length)

    def _run_id(self, head: Head) -> str | None:
        found = RUN_PATH.fullmatch(head.path.removeprefix(self.api_path))
        return found.group(1) if found else None

    def _write(self, knock: Knock, request: Request | None, answer: Answer, *, stored: bool) -> None:
        head, claimed = knock.head, signature.parse(knock.head.headers.get("authorization", ""))
        speaks = knock.fault.sending.name in ("WHOLE", "TRICKLE", "TRUNCATE")
        self.journal.append(
            arrived_at_s=knock.arrived_at_s,
            kind=knock.kind,
            method=head.method,
            path=head.path,
            headers=head.headers,
            body_bytes=None if request is None else len(request.body),
            body_sha256=None if request is None else sha256_hex(request.body),
            stored=stored,
            status=answer.status if speaks else None,
            fault=knock.fault.name,
            run_id=self._run_id(head),
            uri=self.store.uri(head) if knock.kind == "put" else None,
            access_key=claimed.access_key if claimed else None,
            payload=decode_json(request) if request is not None and knock.kind in SERVICE_KINDS else None,
        )


if __name__ == "__main__":
    from tests.support.remote import main

    main()
