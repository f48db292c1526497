"""A client of the far end by boto3 and requests, as anybody would write it: it knows none of our code."""

import gzip
from collections.abc import Callable
from contextlib import closing
from typing import Any

import boto3
import pytest
import requests
from botocore.config import Config
from botocore.exceptions import (
    ClientError,
)

from tests.support.far_end import FarEnd

BODY = gzip.compress(b"timestamp,x\n1,2\n", mtime=0)
FINISH = {"data_source": "inline", "data_csv": "timestamp\n1\n", "run_status": "finished"} | {
    "exit_code": 0,
    "finished_at": "2030-01-01T00:00:00Z",
}


class Client:
    """What a well-behaved peer does, and nothing more."""

    def __init__(self, far_end: FarEnd, *, timeout_s: float = 5.0) -> None:
        self.far_end = far_end
        self.timeout_s = timeout_s
        self.answer: dict[str, Any] = {}

    def post(self, path: str, content: Any = None, **headers: str) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.far_end.token}", **headers}
        with requests.Session() as session:
            session.trust_env = False
            url = self.far_end.api_url + path
            verify = str(self.far_end.ca_file) if self.far_end.ca_file else True
            return session.post(
                url, json=content, headers=headers, timeout=self.timeout_s, allow_redirects=False, verify=verify
            )

    def register(self) -> str:
        self.answer = self.post("/runs", {"job_name": "x"}).json()
        return str(self.answer["run_id"])

    def put(self, name: str = "00000001-abc.csv.gz", body: bytes = BODY, **options: Any) -> dict[str, Any]:
        if not self.answer:
            self.register()
        bucket, _, path = self.answer["upload_uri_prefix"].removeprefix("s3://").partition("/")
        with closing(self.s3()) as s3:
            return dict(s3.put_object(Bucket=bucket, Key=f"{path}/{name}", Body=body, **options))

    def s3(self) -> Any:
        keys = self.answer["upload_credentials"]
        retries = {"total_max_attempts": 1}
        style = {"addressing_style": "path"}
        config = Config(retries=retries, s3=style, read_timeout=self.timeout_s, connect_timeout=self.timeout_s)
        return boto3.client(
            "s3",
            endpoint_url=self.far_end.s3_endpoint_url,
            region_name="us-east-1",
            aws_access_key_id=keys["access_key"],
            aws_secret_access_key=keys["secret_key"],
            aws_session_token=keys["session_token"],
            config=config,
            verify=str(self.far_end.ca_file) if self.far_end.ca_file else None,
        )


def s3_code(put: Callable[[], Any]) -> tuple[str, int]:
    with pytest.raises(ClientError) as caught:
        put()
    return caught.value.response["Error"]["Code"], caught.value.response["ResponseMetadata"]["HTTPStatusCode"]
