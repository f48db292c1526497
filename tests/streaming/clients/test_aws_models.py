"""A client that only puts objects: the same requests as any other, from a tenth of the memory."""

import pytest
from botocore.credentials import Credentials

from streaming.clients.boto import make_client
from tests.support.processes import Home, clean_environment, run_script

REGIONS = ("us-east-1", "ap-southeast-5", "cn-north-1", "xx-new-1")
CLIENT_MAX_KIB = 6 << 10  # 13 MiB before the descriptions were cut
_CLIENT = """
import sys
from pathlib import Path
import streaming.clients.s3, boto3.s3.inject
from streaming.clients.boto import KeysOfThisCall, make_client
def private_kib():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
before = private_kib()
client = make_client("s3", region="eu-west-1", endpoint_url=None, keys=KeysOfThisCall(), read_timeout_s=1, is_for_puts=True)
print(private_kib() - before, client.meta.endpoint_url)
"""


@pytest.mark.parametrize("endpoint_url", [None, "http://127.0.0.1:9/store"])
def test_a_client_for_puts_asks_and_signs_as_one_for_everything_does(endpoint_url: str | None) -> None:
    for region in REGIONS:
        whole, small = (
            make_client(
                "s3",
                region=region,
                endpoint_url=endpoint_url,
                keys=Credentials("key", "secret", "token"),
                read_timeout_s=1,
                is_for_puts=is_for_puts,
            )
            for is_for_puts in (False, True)
        )
        for bucket in ("rows", "Rows.of.old"):
            urls = [
                client.generate_presigned_url("put_object", {"Bucket": bucket, "Key": "a/1.csv.gz"}).partition(
                    "&X-Amz-Date"
                )
                for client in (whole, small)
            ]
            assert urls[0][0] == urls[1][0] != ""


def test_a_client_for_puts_is_small_and_reads_nothing_of_the_users(home: Home, marker: str) -> None:
    models = home.path / ".aws" / "models" / "s3" / "2006-03-01"
    models.mkdir(parents=True)
    (models / "service-2.json").write_text("{}")
    grown_kib, url = _client(home, marker, _CLIENT)
    assert url == "https://s3.eu-west-1.amazonaws.com"
    assert int(grown_kib) < CLIENT_MAX_KIB


def test_where_no_python_can_be_started_a_client_for_puts_is_made_all_the_same(home: Home, marker: str) -> None:
    broken = home.path / "python3"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o700)
    _, url = _client(home, marker, f"import sys; sys.executable = {str(broken)!r}\n" + _CLIENT)
    assert url == "https://s3.eu-west-1.amazonaws.com"


def _client(home: Home, marker: str, program: str) -> list[str]:
    result = run_script(program, clean_environment(home, marker)).check_unfelt()
    return result.stdout.decode().split()
