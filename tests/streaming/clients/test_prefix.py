"""What the service may name as prefix, region and run id; everything else is refused before it is used."""

from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.clients.prefix import require_prefix, require_region, require_run_id, split
from streaming.errors import NotTheService


@pytest.mark.parametrize(
    ("uri", "kept"),
    [
        ("s3://bucket/path", "s3://bucket/path"),
        ("s3://my.bucket-1/team/run-1/", "s3://my.bucket-1/team/run-1"),
        ("s3://abc/a b/c=d/e+f", "s3://abc/a b/c=d/e+f"),
    ],
)
def test_plain_prefix_is_kept_without_its_last_slash(uri: str, kept: str) -> None:
    assert require_prefix(uri) == kept


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "bucket/path",
        "http://bucket/path",
        "file:///etc/passwd",
        "S3://bucket/path",
        "s3:/bucket/path",
        "s3://bucket",
        "s3://bucket/",
        "s3:///path",
        "s3://bucket//path",
        "s3://bucket/path//",
        "s3://bucket/../other",
        "s3://bucket/a/./b",
        "s3://bucket/..",
        "s3://Bucket/path",
        "s3://bu_cket/path",
        "s3://ab/path",
        "s3://" + "a" * 64 + "/path",
        "s3://a..b/path",
        "s3://-bucket/path",
        "s3://127.0.0.1/path",
        "s3://169.254.169.254/latest",
        "s3://xn--bucket/path",
        "s3://bucket--usw2-az1--x-s3/path",
        "s3://arn:aws:s3:us-east-1:123:accesspoint/path",
        "s3://evil.example:8080/path",
        "s3://user@host/path",
        "s3://bucket/path?versionId=1",
        "s3://bucket/path#x",
        "s3://bucket/a%2e%2e/b",
        "s3://bucket/a\\b",
        "s3://bucket/a\nb",
        "s3://bucket/a\x00b",
        "s3://bucket/a\x1b[31m",
        "s3://bucket/p\u00e4th",
        "s3://bucket/path\n",
        "s3://bucket/" + "a" * 901,
    ],
)
def test_odd_prefix_is_refused(uri: str) -> None:
    with pytest.raises(NotTheService) as caught:
        require_prefix(uri)
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 300


@given(st.one_of(st.text(), st.text(alphabet="ab/.:-s3 %?#\n\\").map("s3://".__add__)))
def test_whatever_passes_is_one_bucket_and_stays_below_it(uri: str) -> None:
    try:
        kept = require_prefix(uri)
    except NotTheService:
        return
    bucket, path = split(kept)
    assert kept == f"s3://{bucket}/{path}"
    assert require_prefix(kept) == kept
    assert urlsplit(kept).netloc == bucket
    assert not set(path.split("/")) & {"", ".", ".."}
    assert kept.isprintable()
    assert kept.isascii()


@pytest.mark.parametrize("region", ["us-east-1", "eu-central-2", "garage"])
def test_plain_region_is_kept(region: str) -> None:
    assert require_region(region) == region


@pytest.mark.parametrize(
    "region",
    [
        "",
        "evil.example",
        "us-east-1/x",
        "us-east-1\n",
        "a@b",
        "US",
        "x" * 33,
        "a b",
        "#",
        "0",
        "12",
        "-us",
        "us-",
        None,
        7,
        ["us"],
    ],
)
def test_odd_region_is_refused(region: object) -> None:
    with pytest.raises(NotTheService):
        require_region(region)


@pytest.mark.parametrize("run_id", ["run-1", "6f9619ff-8b86-d011-b42d-00cf4fc964ff", "team/run:1", "0"])
def test_plain_run_id_is_kept(run_id: str) -> None:
    assert require_run_id(run_id) == run_id


@pytest.mark.parametrize("run_id", ["", ".", "..", "a b", "a\nb", "\x1b[2J", "r\u00fcn", "x" * 201, "run?x", "run#x"])
def test_odd_run_id_is_refused(run_id: str) -> None:
    with pytest.raises(NotTheService):
        require_run_id(run_id)
