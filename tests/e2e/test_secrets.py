"""Token and STS keys are nowhere to be found: not on disk, not in logs, not in argv or environment of our processes."""

import re
from collections.abc import Iterator

import pytest

from tests.e2e.far_side import FarSide
from tests.e2e.program import User
from tests.support.gate import Gate
from tests.support.processes import eventually, kill, marked
from tests.support.secrecy import secret

pytestmark = [pytest.mark.weed, pytest.mark.xdist_group("weed-1")]

KEY = re.compile(rb'"(access_key|secret_key|session_token)":\s*"([^"]+)"')


@pytest.fixture
def token(far_side: FarSide, user: User) -> str:
    """A token of this test's own, that reaches the programs by their stdin: so it is in no environment to begin with."""
    made = far_side.target.tokens.add(f"canary {user.marker}")
    user.settings["SENTINEL_API_TOKEN"] = "not-the-token"
    return made


@pytest.fixture
def overheard(far_side: FarSide) -> Iterator[Gate]:
    """The service, behind a gate that keeps what goes through it in the clear."""
    with Gate(far_side.target.api_url, records=True) as gate:
        far_side.api = gate
        yield gate


def _canaries(token: str, overheard: Gate) -> list[str]:
    """The token and every STS key that the service handed out."""
    keys = {text.decode() for _, text in KEY.findall(overheard.heard())}
    assert len(keys) >= 3
    return [token, *keys]


LOGGED = """
import logging
logging.basicConfig(level=logging.DEBUG, filename=os.path.join(os.environ["HOME"], "debug.log"))
token = input()
"""


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_manager_keeps_secrets_while_it_runs_fails_and_ends(
    far_side: FarSide, user: User, token: str, overheard: Gate, method: str
) -> None:
    program = user.start(
        LOGGED
        + f"""
manager = StreamingManager(token, CSV, 1, start_method={method!r}, stop_timeout=1)
manager.start()
write(0, 10)
wait_for(lambda: manager.uploaded_uris)
say("uploaded")
input()
write(10, 10)
time.sleep(1.5)
say("failed")
input()
say(manager.stop())
""",
        stdin=True,
        SENTINEL_API_URL=overheard.url,
    )
    program.say(token)
    assert program.read_line() == "uploaded"
    canaries = _canaries(token, overheard)
    _require_secret(user, canaries)
    far_side.target.tokens.revoke(f"canary {user.marker}")
    far_side.s3.shut()
    program.say("fail")
    assert program.read_line() == "failed"
    user.kill_uploader()
    _require_secret(user, canaries)
    program.say("stop")
    result = program.wait().check_unfelt()
    for process in marked(user.marker):
        kill(process)
    secret(canaries, directories=[user.home.path, user.home.tmp_dir], logs=[result.stdout, result.stderr])


def test_track_keeps_secrets(far_side: FarSide, user: User, token: str, overheard: Gate) -> None:
    program = user.start(
        LOGGED
        + """
import streaming
with streaming.track(token=token, interval=0.1, upload_interval=1):
    say("in")
    input()
""",
        stdin=True,
        SENTINEL_API_URL=overheard.url,
    )
    program.say(token)
    assert program.read_line() == "in"
    eventually(lambda: KEY.search(overheard.heard()) and len(marked(user.marker)) >= 3)
    canaries = _canaries(token, overheard)
    _require_secret(user, canaries)
    program.say("out")
    result = program.wait().check_unfelt()
    user.wait_gone()
    secret(canaries, directories=[user.home.path, user.home.tmp_dir], logs=[result.stdout, result.stderr])


def test_token_in_another_variable_does_not_reach_our_processes(far_side: FarSide, user: User, token: str) -> None:
    """A program's own name for the token, which it passes as an argument."""
    program = user.start(
        """
manager = StreamingManager(os.environ["MY_OWN_NAME_FOR_IT"].split("=")[1], CSV, 1)
manager.start()
say("started")
input()
""",
        stdin=True,
        MY_OWN_NAME_FOR_IT=f"token={token}",
        SENTINEL_API_KEY=token,
    )
    assert program.read_line() == "started"
    secret([token], pids=[user.uploader().pid])
    program.say("end")
    program.wait().check_unfelt()
    user.wait_gone()


def test_run_command_does_not_hand_the_token_to_its_uploader(far_side: FarSide, user: User) -> None:
    program = user.start_command("run", "--", "sh", "-c", "echo up; read line", stdin=True)
    assert program.read_line() == "up"
    secret([far_side.token], directories=[user.home.path], pids=[user.uploader().pid])
    program.say("end")
    program.wait().check_unfelt()
    user.wait_gone()


def _require_secret(user: User, canaries: list[str]) -> None:
    """Everything that can be seen now, of every process of the test: the caller's too, since the token came by stdin."""
    uploader = user.uploader()
    processes = marked(user.marker)
    assert uploader in processes
    secret(
        canaries,
        directories=[user.home.path, user.home.tmp_dir],
        pids=[process.pid for process in processes],
    )
