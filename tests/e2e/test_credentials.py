"""STS credentials that live for seconds, enforced by the real S3: refreshed in time, and survived when that fails."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from streaming.server.process.embedded import EmbeddedServer, embedded
from tests.e2e.far_side import FarSide
from tests.e2e.program import User, told
from tests.support.processes import Home

pytestmark = [pytest.mark.weed, pytest.mark.xdist_group("weed-1")]

LIFETIME_S = 3


@pytest.fixture
def far_side(target: EmbeddedServer, tmp_path: Path) -> Iterator[FarSide]:
    """A service of its own in front of the same S3, whose credentials expire after LIFETIME_S."""
    with (
        embedded(tmp_path / "target", credential_lifetime_s=LIFETIME_S, s3=target.settings.s3) as hasty,
        FarSide(hasty) as made,
    ):
        yield made


@pytest.fixture
def user(far_side: FarSide, home: Home, marker: str) -> Iterator[User]:
    made = User(home, marker, far_side.environment())
    yield made
    made.leave()


STEADY = f"""
LIFETIME_S = {LIFETIME_S}
manager = StreamingManager(TOKEN, CSV, 1, host_info={{}}, cloud_info={{}}, spool_interval=0.1)
manager.start()
written = 0

def run_for(seconds):
    global written
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        write(written, 5)
        written += 5
        time.sleep(0.1)
"""


def test_run_longer_than_its_credentials_is_uploaded_without_a_refusal(far_side: FarSide, user: User) -> None:
    result = user.run(
        STEADY
        + """
run_for(LIFETIME_S * 2.5)
manager.stop()
say(written)
"""
    ).check_unfelt()
    run = far_side.judge(told(int(result.stdout)), run_status="finished", exit_code=0)
    assert len(run.data_uris) >= LIFETIME_S
    (log,) = user.spool().parent.glob("*.log")
    assert "delivery.delayed" not in log.read_text()
    user.wait_gone()


def test_credentials_that_expire_while_the_service_is_down_are_replaced_when_it_is_back(
    far_side: FarSide, user: User
) -> None:
    program = user.start(
        STEADY
        + """
wait_for(lambda: run_for(0.2) or manager.uploaded_uris)
say("uploaded")
input()
run_for(LIFETIME_S + 1)
say("expired")
input()
manager.stop()
say(written)
""",
        stdin=True,
    )
    assert program.read_line() == "uploaded"
    far_side.api.shut()
    program.say("go on")
    assert program.read_line() == "expired"
    far_side.api.open()
    program.say("stop")
    result = program.wait().check_unfelt()
    far_side.judge(told(int(result.stdout)), run_status="finished", exit_code=0)
    user.wait_gone()
