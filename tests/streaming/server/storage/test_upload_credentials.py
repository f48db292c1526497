"""Upload credentials: how long, for what, and what their repr shows."""

from __future__ import annotations

import base64
import json
from datetime import datetime, timedelta, timezone

from streaming.server.settings import S3Settings
from streaming.server.storage.upload_credentials import CredentialIssuer, put_only_policy, sign_with_expiry


def issued_with(s3: S3Settings, lifetime_s: int) -> float:
    """Seconds that the credentials are said to live."""
    issuer = CredentialIssuer(s3, lifetime_s=lifetime_s)
    credentials = issuer.issue(run_id="a1", prefix="runs/a1")
    issuer.close()
    return (credentials.expires_at - datetime.now(timezone.utc)).total_seconds()


def test_the_lifetime_is_as_asked_for(s3: S3Settings) -> None:
    assert 3590 < issued_with(s3, 3600) <= 3600


def test_a_lifetime_below_what_sts_gives_is_told_to_the_client(s3: S3Settings) -> None:
    assert 0 < issued_with(s3, 3) <= 3


def test_the_repr_shows_no_secret(s3: S3Settings) -> None:
    issuer = CredentialIssuer(s3, lifetime_s=900)
    credentials = issuer.issue(run_id="a1", prefix="runs/a1")
    issuer.close()
    assert credentials.secret_key not in repr(credentials)
    assert credentials.session_token not in repr(credentials)
    assert s3.secret_key not in repr(s3)


def test_the_policy_is_put_below_the_prefix_and_nothing_else() -> None:
    assert put_only_policy("rows", "runs/a1")["Statement"] == [
        {"Effect": "Allow", "Action": ["s3:PutObject"], "Resource": ["arn:aws:s3:::rows/runs/a1/*"]}
    ]


def test_a_token_signed_again_has_the_new_expiry_and_all_other_claims() -> None:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    key = base64.b64encode(b"k" * 32).decode()
    expiry = datetime.now(timezone.utc) + timedelta(seconds=5)
    token = sign_with_expiry(f"{part({'alg': 'HS256'})}.{part({'exp': 1, 'sid': 'x'})}.old", key=key, expiry=expiry)
    payload = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    assert claims == {"exp": int(expiry.timestamp()), "sid": "x"}
    assert token.split(".")[2] != "old"


def test_the_policy_holds_no_blanks_which_ceph_refuses(s3: S3Settings) -> None:
    issuer = CredentialIssuer(s3, lifetime_s=900)
    sent: list[str] = []
    issuer._client.meta.events.register("before-send.sts", lambda request, **_: sent.append(str(request.body)))
    issuer.issue(run_id="a1", prefix="runs/a1")
    issuer.close()
    assert "Policy" in sent[0]
    assert "+" not in sent[0].partition("Policy=")[2].partition("&")[0]
