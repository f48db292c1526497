"""Try once, before anybody relies on it, all that the server and its uploaders will ask of an S3 that is not ours to run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from streaming.server.errors import StartFailed, StoreUnavailable
from streaming.server.settings import ApiSettings, S3Settings
from streaming.server.storage.objects import Bucket
from streaming.server.storage.upload_credentials import CredentialIssuer

_TRIAL, _PREFIX, _ELSEWHERE = "trial", "runs/.trial", "runs/.elsewhere"
_BODY = b"tracker-stream tries whether it can write here"
_STATIC_HINT = "A store without STS takes `--s3-credentials static`: uploaders then get the keys that you give."


def try_store(settings: ApiSettings) -> list[str]:
    """What the store lets happen that it should not, in words for a person. Raises StartFailed for what it cannot do."""
    s3 = settings.s3
    with Bucket(s3) as store:
        _do(store.ensure_bucket, f"The bucket {s3.bucket} cannot be used with these keys.")
        uploader = _uploader_of(settings)
        with Bucket(uploader) as theirs:
            _do(lambda: theirs.put(f"{_PREFIX}/1", _BODY), "An uploader could not put an object.")
            _do(lambda: _read_back(store), "What an uploader put cannot be listed and read with these keys.")
            return list(_liberties(theirs, s3))


def _uploader_of(settings: ApiSettings) -> S3Settings:
    """The store as an uploader of one run sees it."""
    issuer = CredentialIssuer(settings.s3, lifetime_s=settings.credential_lifetime_s)
    try:
        given = issuer.issue(run_id=_TRIAL, prefix=_PREFIX)
    except StoreUnavailable as exc:
        raise StartFailed(f"The store gives no upload credentials ({exc}).", hint=_STATIC_HINT) from exc
    finally:
        issuer.close()
    return replace(
        settings.s3,
        access_key=given.access_key,
        secret_key=given.secret_key,
        session_token=given.session_token or None,
    )


def _read_back(store: Bucket) -> None:
    key = f"{_PREFIX}/1"
    if key not in {entry.key for entry in store.list(f"{_PREFIX}/")} or store.read(key) != _BODY:
        raise StoreUnavailable(f"{key} is not what was written")


def _liberties(theirs: Bucket, s3: S3Settings) -> Iterator[str]:
    if s3.hands_out_keys:
        yield (
            "Uploaders get the very keys that you gave: whoever has a token can do in the bucket all that those can. "
            "Give keys that can put and read, no more; the upload credentials do not expire."
        )
    elif _works(theirs):
        yield (
            "The store does not enforce session policies: an uploader can put objects outside its own run. "
            "Give tokens only to people who may write to each other's runs."
        )


def _works(theirs: Bucket) -> bool:
    try:
        theirs.put(f"{_ELSEWHERE}/1", _BODY)
    except StoreUnavailable:
        return False
    return True


def _do(step: Callable[[], None], otherwise: str) -> None:
    try:
        step()
    except StoreUnavailable as exc:
        raise StartFailed(f"{otherwise} ({exc})") from exc
