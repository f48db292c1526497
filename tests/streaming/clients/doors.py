"""What is asked of our two clients in their tests."""

import gzip
from collections.abc import Callable
from typing import Any

import pytest

from streaming.clients import s3
from streaming.clients.sentinel import SentinelApi
from streaming.errors import StreamError
from tests.support.far_end import FarEnd
from tests.support.faults import Fault
from tests.support.recorded import connect

FINISH = {"data_source": "inline", "data_csv": "timestamp\n1\n", "run_status": "finished"} | {
    "exit_code": 0,
    "finished_at": "2030-01-01T00:00:00Z",
}


BODY = gzip.compress(b"timestamp,x\n1,2\n", mtime=0)


def register(api: SentinelApi, **payload: Any) -> str:
    return api.register(payload, idempotency_key="spool-1")[0].run_id


def refusal_of(api: SentinelApi, far_end: FarEnd, kind: str, fault: Fault) -> StreamError:
    """The error that a call of this kind ends with."""
    run_id = register(api)
    calls: dict[str, Callable[[], object]] = {
        "register": lambda: register(api),
        "refresh": lambda: api.refresh(run_id),
        "finish": lambda: api.finish(run_id, FINISH),
    }
    with far_end.always(kind, fault), pytest.raises(StreamError) as caught:
        calls[kind]()
    assert far_end.token not in str(caught.value)
    assert str(caught.value).isprintable()
    return caught.value


class Door:
    """An object store with credentials for one registered run, and the URI of an object to put."""

    def __init__(self, far_end: FarEnd, **options: Any) -> None:
        self.far_end = far_end
        self.clients = connect(far_end, **options)
        registration, credentials = self.clients.service.register({}, idempotency_key="spool-1")
        self.run_id = registration.run_id
        self.clients.store.keep(self.run_id, credentials)
        self.uri = f"{registration.upload_uri_prefix}/00000001-abc.csv.gz"

    def put(self, body: bytes = BODY, uri: str | None = None) -> s3.Receipt:
        return self.clients.store.put(self.run_id, uri or self.uri, body)

    def refusal(self, fault: Fault | None = None) -> StreamError:
        if fault is not None:
            self.far_end.always("put", fault)
        with pytest.raises(StreamError) as caught:
            self.put()
        self.far_end.clear()
        assert str(caught.value).isprintable()
        assert not any(canary in str(caught.value) for canary in self.far_end.secrets())
        return caught.value
