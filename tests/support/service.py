"""The Sentinel API as the wire contract describes it: bearer token, closed schemas, idempotent register."""

import gzip
import json
import re
import uuid
import zlib
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from tests.support.faults import extra_forbidden
from tests.support.grants import Grants
from tests.support.wire import Answer, Request

METADATA_KEYS = {
    "project_name",
    "job_name",
    "stage_name",
    "task_name",
    "external_run_id",
    "container_image",
    "command",
} | {
    *("env", "language", "orchestrator", "executor", "team", "tags"),
}
HOST_KEYS = {
    "host_id",
    "host_hostname",
    "host_ip",
    "host_server_allocation",
    "host_vcpus",
    "host_cpu_model",
    "host_memory_mib",
} | {
    *("host_gpu_model", "host_gpu_count", "host_gpu_memory_mib", "host_storage_gb"),
}
CLOUD_KEYS = {f"cloud_{name}" for name in ("vendor_id", "account_id", "region_id", "zone_id", "instance_type")}
RUN_KEYS = METADATA_KEYS | HOST_KEYS | CLOUD_KEYS
FORMER_KEYS = {"host_name", "host_allocation", "host_gpu_vram_mib"}  # as the Python client documents them
FINISH_KEYS = {"inline": "data_csv", "s3": "data_uris"}
PREFIX = re.compile(r"s3://([^/]+)/?(.*)")


@dataclass
class Run:
    """One run as the service knows it; `finish` is the payload it was finished with."""

    run_id: str
    metadata: dict[str, Any]
    idempotency_key: str | None
    upload_uri_prefix: str
    finish: dict[str, Any] | None = None
    finish_headers: dict[str, str] = field(default_factory=dict)


class Service:
    def __init__(self, grants: Grants, buckets: set[str], token: str) -> None:
        self._grants = grants
        self._buckets = buckets
        self.tokens: set[str] = {token}
        self.runs: dict[str, Run] = {}
        self.forbidden_keys: set[str] = set()
        self.complaints: dict[str, str] = {}  # key -> what is held against whatever it holds, e.g. "string_too_long"
        self.tags_shape: type = dict  # or list; nobody here knows what the live schema wants
        self.accepts_gzip = True
        self.register_status = 200  # the contract names none; 201 is as good
        self.upload_uri_prefix = "s3://far-end-bucket/team/{run_id}"  # sent as it is where it has no {run_id}

    def handle(self, kind: str, request: Request, run_id: str | None) -> Answer:
        if not self._is_authorized(request):
            return Answer.of_json(401, {"detail": "Invalid or revoked token"})
        if kind == "register":
            return self._register(request)
        run = self.runs.get(run_id or "")
        if run is None:
            return Answer.of_json(404, {"detail": "Run not found"})
        return self._refresh(run) if kind == "refresh" else self._finish(run, request)

    def _is_authorized(self, request: Request) -> bool:
        scheme, _, token = request.head.headers.get("authorization", "").partition(" ")
        return scheme == "Bearer" and token in self.tokens

    def _register(self, request: Request) -> Answer:
        metadata = decode_json(request)
        problems = self._run_problems(metadata)
        if problems:
            return Answer.of_json(422, {"detail": problems})
        run = self._find_or_create(metadata, request.head.headers.get("idempotency-key"))
        ours = {"run_id": run.run_id, "upload_uri_prefix": run.upload_uri_prefix}
        return Answer.of_json(self.register_status, {**ours, "upload_credentials": self._credentials(run)})

    def _run_problems(self, metadata: Any) -> list[dict[str, Any]]:
        """What the closed schema of register holds against `metadata`, all of it at once, as FastAPI would list it."""
        if not isinstance(metadata, dict):
            return [_problem("dict_type")]
        extra = sorted(set(metadata) - ((RUN_KEYS | FORMER_KEYS) - self.forbidden_keys))
        odd = [_problem("type_error", key) for key, content in metadata.items() if not self._fits(key, content)]
        more = [_problem(self.complaints[key], key) for key in metadata if key in self.complaints]
        return [
            *extra_forbidden(extra)["detail"],
            *(problem for problem in odd if problem["loc"][1] not in extra),
            *more,
        ]

    def _fits(self, key: str, content: Any) -> bool:
        if content is None:
            return True
        if key == "tags":
            return isinstance(content, self.tags_shape)
        if key == "command":
            return isinstance(content, str) and _is_json_list(content)
        return isinstance(content, str | int | float)

    def _find_or_create(self, metadata: dict[str, Any], idempotency_key: str | None) -> Run:
        for run in self.runs.values():
            if idempotency_key is not None and run.idempotency_key == idempotency_key:
                return run
        run_id = f"run-{uuid.uuid4().hex[:12]}"
        run = Run(run_id, metadata, idempotency_key, self.upload_uri_prefix.replace("{run_id}", run_id))
        self.runs[run_id] = run
        return run

    def _credentials(self, run: Run) -> dict[str, str]:
        found = PREFIX.fullmatch(run.upload_uri_prefix)
        bucket, path = found.groups() if found else ("", "")
        self._buckets.update({bucket} if bucket else set())
        return self._grants.as_json(self._grants.issue(f"{bucket}/{path}".rstrip("/")))

    def _refresh(self, run: Run) -> Answer:
        return Answer.of_json(200, {"upload_credentials": self._credentials(run)})

    def _finish(self, run: Run, request: Request) -> Answer:
        if request.head.headers.get("content-encoding") == "gzip" and not self.accepts_gzip:
            return Answer.of_json(422, {"detail": [{"type": "json_invalid", "loc": ["body", 0], "msg": "invalid"}]})
        payload = decode_json(request)
        problems = finish_problems(payload)
        if problems:
            return Answer.of_json(422, {"detail": problems})
        if run.finish is not None:
            return Answer.of_json(409, {"detail": "Run is already finished"})
        run.finish, run.finish_headers = payload, dict(request.head.headers)
        return Answer.of_json(200, {"run_id": run.run_id, "duration_s": 1.0, "cpu_usage_mean": 0.5})


def decode_json(request: Request) -> Any:
    """The body's JSON, gunzipped if it says so; None when it is neither."""
    try:
        zipped = request.head.headers.get("content-encoding") == "gzip"
        return json.loads(gzip.decompress(request.body) if zipped else request.body)
    except (ValueError, OSError, EOFError, zlib.error):
        return None


def _problem(kind: str, *loc: str) -> dict[str, Any]:
    return {"type": kind, "loc": ["body", *loc], "msg": kind.replace("_", " ")}


def _is_json_list(text: str) -> bool:
    try:
        return isinstance(json.loads(text), list)
    except ValueError:
        return False


def finish_problems(payload: Any) -> list[dict[str, Any]]:
    """What the closed schema of finish holds against `payload`, as FastAPI would list it."""
    if not isinstance(payload, dict):
        return [_problem("dict_type")]
    data_key = FINISH_KEYS.get(str(payload.get("data_source")))
    if data_key is None:
        return [_problem("union_tag_invalid", "data_source")]
    required = {"data_source", data_key, "run_status", "finished_at"}
    extra = sorted(set(payload) - required - {"exit_code"})
    missing = sorted(required - set(payload))
    if extra or missing:
        return [*(extra_forbidden(extra)["detail"]), *(_problem("missing", key) for key in missing)]
    return [_problem("value_error", key) for key, content in payload.items() if not _finish_fits(key, content)]


def _finish_fits(key: str, content: Any) -> bool:
    if key == "data_uris":
        return isinstance(content, list) and bool(content) and all(str(uri).startswith("s3://") for uri in content)
    if key == "run_status":
        return content in ("finished", "failed")
    if key == "exit_code":
        return isinstance(content, int) and not isinstance(content, bool)
    if key == "finished_at":
        return is_utc(content)
    return isinstance(content, str)


def is_utc(text: Any) -> bool:
    try:
        at = datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    except ValueError:
        return False
    return at.utcoffset() == timedelta(0)
