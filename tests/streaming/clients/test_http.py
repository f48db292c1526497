"""What both doors know of HTTP: causes in words, Retry-After, dates, and how much of an answer is read."""

import random
import socket
import ssl
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
import requests
from botocore import exceptions as botocore_errors
from hypothesis import given
from hypothesis import strategies as st
from urllib3 import exceptions as urllib3_errors

from streaming.clients.deadline import DeadlinePassed
from streaming.clients.http import cause_of, http_date, printable, read_capped, retry_after_s, served_at
from streaming.errors import NotTheService

NOW = datetime(2026, 11, 24, 12, 0, 0, tzinfo=timezone.utc)


def certificate_error(code: int) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError("certificate verify failed")
    error.verify_code = code
    return error


def by_requests(inner: BaseException) -> requests.ConnectionError:
    """As requests wraps urllib3's MaxRetryError around it."""
    return requests.ConnectionError(urllib3_errors.MaxRetryError(None, "/", inner))  # type: ignore[arg-type]


def by_botocore(inner: BaseException) -> botocore_errors.HTTPClientError:
    return botocore_errors.HTTPClientError(error=inner)


def new_connection(inner: BaseException) -> urllib3_errors.NewConnectionError:
    error = urllib3_errors.NewConnectionError(None, "failed")  # type: ignore[arg-type]
    error.__cause__ = inner
    return error


@pytest.mark.parametrize("wrap", [lambda error: error, by_requests, by_botocore])
@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (new_connection(socket.gaierror(-2, "Name or service not known")), "DNS"),
        (new_connection(ConnectionRefusedError(111, "refused")), "refused"),
        (new_connection(OSError(101, "Network is unreachable")), "no route"),
        (ConnectionResetError(104, "reset"), "connection lost"),
        (urllib3_errors.ProtocolError("Connection broken"), "connection lost"),
        (TimeoutError("timed out"), "timeout"),
        (urllib3_errors.ReadTimeoutError(None, "/", "slow"), "timeout"),  # type: ignore[arg-type]
        (DeadlinePassed("too long"), "timeout"),
        (certificate_error(18), "TLS"),
        (certificate_error(10), "TLS: certificate out of date, or this clock wrong"),
        (certificate_error(9), "TLS: certificate out of date, or this clock wrong"),
        (urllib3_errors.ProxyError("no", OSError("tunnel failed: 407")), "proxy"),
        (ValueError("?"), "no connection"),
    ],
)
def test_cause_is_named_however_it_is_wrapped(
    wrap: Callable[[BaseException], BaseException], error: BaseException, cause: str
) -> None:
    assert cause_of(wrap(error)) == cause


def test_circular_causes_end() -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert cause_of(first) == "no connection"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("120", 120.0),
        (" 5 ", 5.0),
        ("0", 0.0),
        ("9" * 400, 999_999_999.0),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("٣", None),
        ("Tue, 24 Nov 2026 12:01:30 GMT", 90.0),
        ("Tue, 24 Nov 2026 11:00:00 GMT", 0.0),
        ("Tue, 99 Nov 2026 12:00:00 GMT", None),
        ("Tue, 24 Nov 99999999 12:00:00 GMT", None),
    ],
)
def test_retry_after(text: str | None, seconds: float | None) -> None:
    assert retry_after_s(text, served_at=NOW) == seconds


def test_retry_after_date_is_measured_by_the_servers_clock() -> None:
    theirs = datetime.now(timezone.utc) - timedelta(hours=5)
    date = format_datetime(theirs + timedelta(seconds=30), usegmt=True)
    asked_s = retry_after_s(date, served_at=served_at(format_datetime(theirs, usegmt=True)))
    assert asked_s == 30


def test_without_a_date_our_clock_serves() -> None:
    for date in (None, "", "yesterday"):
        assert abs((served_at(date) - datetime.now(timezone.utc)).total_seconds()) < 60


@given(st.text())
def test_no_date_header_breaks_us(text: str) -> None:
    at = http_date(text)
    assert at is None or at.tzinfo is not None
    asked_s = retry_after_s(text, served_at=NOW)
    assert asked_s is None or asked_s >= 0


def test_answer_within_the_limit_is_read_whole() -> None:
    assert read_capped([b"ab", b"", b"cd"], 4) == b"abcd"


def test_answer_beyond_the_limit_is_not_read_further() -> None:
    taken = 0

    def parts() -> object:
        nonlocal taken
        while True:
            taken += 1
            yield b"x" * 1000

    with pytest.raises(NotTheService, match="larger than 1 MiB"):
        read_capped(parts(), 1 << 20)  # type: ignore[arg-type]
    assert taken == (1 << 20) // 1000 + 1


def test_text_from_outside_cannot_steer_a_terminal() -> None:
    hostile = "\x1b[2J\x07red\r\nline\u202e" + "".join(map(chr, random.Random(1).sample(range(32), 20)))
    shown = printable(hostile, 300)
    assert shown.isprintable()
    assert len(shown) == len(hostile)
    assert printable("x" * 500, 300) == "x" * 300
