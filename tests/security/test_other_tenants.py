"""A tenant with a token, and another's runs and objects: not to be seen, read, changed, named or even known to exist."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import requests
from botocore.exceptions import BotoCoreError, ClientError

from streaming.server import EmbeddedServer
from streaming.server.storage.objects import Bucket
from streaming.server.storage.objects import make_client as client_of
from tests.security.conftest import Tried

pytestmark = [pytest.mark.weed, pytest.mark.xdist_group("whole-server")]

ROWS = b"the other's rows"
CSV = '"timestamp","system_cpu_usage"\n10.0,0.5\n'


@dataclass(frozen=True)
class Tenant:
    """Somebody with a token, and one run of theirs."""

    server: EmbeddedServer
    token: str
    run: dict[str, Any]

    @classmethod
    def new(cls, server: EmbeddedServer, name: str) -> Tenant:
        token = server.tokens.add(name)
        answer = requests.post(
            f"{server.api_url}/runs", json={}, headers={"Authorization": f"Bearer {token}"}, timeout=60
        )
        return cls(server, token, answer.json())

    def call(self, method: str, path: str, **options: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.token}", **options.pop("headers", {})}
        return requests.request(method, self.server.api_url + path, headers=headers, timeout=20, **options)

    @property
    def key(self) -> str:
        return f"runs/{self.run['run_id']}/0001.csv.gz"

    def client(self, service: str, **other: str) -> Any:
        """With the upload credentials of the tenant's run, or some of them replaced."""
        names = ("access_key", "secret_key", "session_token")
        keys = {name: self.run["upload_credentials"][name] for name in names}
        return client_of(service, replace(self.server.settings.s3, **{**keys, **other}))


@pytest.fixture(scope="module")
def victim(whole_server: EmbeddedServer) -> Iterator[Tenant]:
    made = Tenant.new(whole_server, "victim")
    with Bucket(whole_server.settings.s3) as store:
        store.put(made.key, ROWS)
    yield made
    assert [content for _, content in whole_server.read_objects(made.run["run_id"])] == [ROWS]


@pytest.fixture(scope="module")
def thief(whole_server: EmbeddedServer) -> Tenant:
    return Tenant.new(whole_server, "thief")


def test_every_call_with_anothers_run_is_answered_as_if_there_were_none(
    victim: Tenant, thief: Tenant, tried: Tried
) -> None:
    description = requests.get(f"{victim.server.api_url}/openapi.json", timeout=60).json()
    finish = {"data_source": "inline", "data_csv": CSV, "run_status": "failed"}
    done = 0
    for path, methods in description["paths"].items():
        for method in methods if "{run_id}" in path else ():
            for twist in ("{}", "{}/", "{}%00", "%2e/{}", "{}?run_id={}", "{}?token_id=1"):
                twisted = path.replace("{run_id}", twist.replace("{}", victim.run["run_id"]))
                body = {"json": finish} if path.endswith("/finish") else {}
                answer = thief.call(method.upper(), twisted, params={"columns": "x"}, allow_redirects=False, **body)
                assert answer.status_code in {307, 404, 405}, (method, twisted)
                assert victim.run["run_id"] not in answer.text
                done += 1
    assert done > 30
    assert thief.call("GET", "/runs").json()["total"] == 1
    assert thief.call("GET", f"/runs?q={victim.run['run_id']}").json()["total"] == 0
    tried("calls with another tenant's run", done + 2)


def test_a_finish_cannot_name_anothers_objects(victim: Tenant, thief: Tenant, tried: Tried) -> None:
    prefix, own = victim.run["upload_uri_prefix"], thief.run["upload_uri_prefix"]
    uris = [
        f"{prefix}/0001.csv.gz",
        f"{own}/../{victim.run['run_id']}/0001.csv.gz",
        f"{own}/a/../../{victim.run['run_id']}/0001.csv.gz",
        f"{own}x/0001.csv.gz",
        f"{own}/",
        own,
        prefix.replace("s3://", "s3:/"),
        prefix.upper(),
        "s3:///runs/x",
        "file:///etc/passwd",
        "/etc/passwd",
        f"{own}\\..\\..\\x",
        "",
    ]
    for uri in uris:
        body = {"data_source": "s3", "data_uris": [uri], "run_status": "finished"}
        assert thief.call("POST", f"/runs/{thief.run['run_id']}/finish", json=body).status_code == 422, uri
    tried("URIs of another tenant in a finish", len(uris))


def test_upload_credentials_open_nothing_of_anothers(victim: Tenant, thief: Tenant, tried: Tried) -> None:
    s3, bucket, key = thief.client("s3"), victim.server.bucket, victim.key
    source = {"Bucket": bucket, "Key": key}
    there = {"Bucket": bucket, "Key": key}
    own = {"Bucket": bucket, "Key": thief.key}
    attempts: list[tuple[Callable[..., Any], dict[str, Any]]] = [
        (s3.put_object, {**there, "Body": b"stolen"}),
        (s3.put_object, {"Bucket": bucket, "Key": f"{thief.key}/../../../{key}", "Body": b"stolen"}),
        (s3.put_object, {"Bucket": bucket, "Key": f"/{key}", "Body": b"stolen"}),
        (s3.put_object, {"Bucket": bucket, "Key": f"./{key}", "Body": b"stolen"}),
        (s3.put_object, {"Bucket": bucket, "Key": f"runs//{key.removeprefix('runs/')}", "Body": b"stolen"}),
        (s3.get_object, there),
        (s3.get_object, own),
        (s3.head_object, there),
        (s3.delete_object, there),
        (s3.delete_objects, {"Bucket": bucket, "Delete": {"Objects": [{"Key": key}]}}),
        (s3.copy_object, {**own, "CopySource": source}),
        (s3.copy_object, {**there, "CopySource": source, "MetadataDirective": "REPLACE"}),
        (s3.list_objects_v2, {"Bucket": bucket}),
        (s3.list_objects_v2, {"Bucket": bucket, "Prefix": "runs/"}),
        (s3.list_objects, {"Bucket": bucket, "Prefix": f"runs/{victim.run['run_id']}"}),
        (s3.list_object_versions, {"Bucket": bucket}),
        (s3.list_multipart_uploads, {"Bucket": bucket}),
        (s3.create_multipart_upload, there),
        (s3.get_object_tagging, there),
        (s3.put_object_tagging, {**there, "Tagging": {"TagSet": [{"Key": "a", "Value": "b"}]}}),
        (s3.delete_object_tagging, there),
        (s3.get_object_acl, there),
        (s3.put_object_acl, {**there, "ACL": "public-read"}),
        (s3.get_bucket_acl, {"Bucket": bucket}),
        (s3.put_bucket_acl, {"Bucket": bucket, "ACL": "public-read-write"}),
        (s3.put_bucket_policy, {"Bucket": bucket, "Policy": _everything()}),
        (s3.get_bucket_policy, {"Bucket": bucket}),
        (s3.delete_bucket_policy, {"Bucket": bucket}),
        (s3.put_bucket_cors, {"Bucket": bucket, "CORSConfiguration": {"CORSRules": [_ANY_ORIGIN]}}),
        (s3.put_bucket_versioning, {"Bucket": bucket, "VersioningConfiguration": {"Status": "Suspended"}}),
        (s3.put_bucket_lifecycle_configuration, {"Bucket": bucket, "LifecycleConfiguration": {"Rules": [_EXPIRE_ALL]}}),
        (s3.delete_bucket, {"Bucket": bucket}),
        (s3.create_bucket, {"Bucket": "another-bucket"}),
    ]
    opened = [f"{call.__name__} {options}" for call, options in attempts if _opens(call, options)]
    tried("S3 calls with another run's credentials", len(attempts))
    assert opened == []


_ANY_ORIGIN = {"AllowedMethods": ["GET", "PUT", "DELETE"], "AllowedOrigins": ["*"]}
_EXPIRE_ALL = {"ID": "all", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 1}}


def _everything() -> str:
    statement = {"Effect": "Allow", "Principal": "*", "Action": "s3:*", "Resource": "*"}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def test_wider_credentials_can_be_neither_asked_for_nor_forged(victim: Tenant, thief: Tenant, tried: Tried) -> None:
    token = thief.run["upload_credentials"]["session_token"]
    forged = [*_forgeries(token, victim), "", token[:-2], token.rpartition(".")[0] + "."]
    attempts: list[tuple[Callable[..., Any], dict[str, Any]]] = [
        (thief.client("s3", session_token=text).get_object, {"Bucket": victim.server.bucket, "Key": victim.key})
        for text in forged
    ]
    attempts += [
        (
            thief.client("s3", session_token=text).put_object,
            {"Bucket": victim.server.bucket, "Key": victim.key, "Body": b"x"},
        )
        for text in forged
    ]
    sts, role = thief.client("sts"), victim.server.settings.s3.role_arn
    attempts += [
        (sts.assume_role, {"RoleArn": arn, "RoleSessionName": name, **more})
        for arn in (role, role.replace("role/uploader", "role/admin"), role.replace("role/uploader", "user/server"))
        for name in ("run-x", f"run-{victim.run['run_id']}")
        for more in ({}, {"Policy": _everything()}, {"DurationSeconds": 43200})
    ]
    attempts += [(sts.get_session_token, {}), (sts.get_federation_token, {"Name": "server"})]
    opened = [f"{call.__name__} {options}" for call, options in attempts if _opens(call, options)]
    tried("wider credentials, asked for or forged", len(attempts))
    assert opened == []


def _forgeries(token: str, victim: Tenant) -> Iterator[str]:
    """The token with more in it, signed by nobody, by the wrong key, or with the old signature."""
    header, payload, signature = token.split(".")
    claims = json.loads(_decoded(payload))
    text = json.dumps(claims)
    wider = [
        json.loads(text.replace(claims.get("sub", "\0"), "server")),
        {**claims, "policies": ["Admin"], "policy": _everything(), "session_policy": _everything()},
        {**claims, "exp": 9999999999},
        {**claims, "role": "arn:aws:iam::000000000000:user/server"},
        {key: value for key, value in claims.items() if "pol" not in key},
        json.loads(text.replace("runs/", f"runs/{victim.run['run_id']}")),
    ]
    for changed in wider:
        body = _encoded(json.dumps(changed).encode())
        yield f"{header}.{body}.{signature}"
        for kind, mark in (("none", ""), ("HS256", _encoded(b"0" * 32))):
            forged = _encoded(json.dumps({"alg": kind, "typ": "JWT"}).encode())
            yield f"{forged}.{body}.{mark}"


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _opens(call: Callable[..., Any], options: dict[str, Any]) -> bool:
    try:
        answer = call(**options)
    except (ClientError, BotoCoreError):
        return False
    return not answer.get("Errors")  # to DeleteObjects the answer is always 200
