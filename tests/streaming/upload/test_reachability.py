"""One address for many runs: found out once, asked by one at a time, and open to all as soon as it answers."""

from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

import pytest

from streaming.errors import Busy, Unreachable
from streaming.upload.reachability import Address


def fails() -> NoReturn:
    raise Unreachable("nobody there", cause="refused")


def refuses() -> NoReturn:
    raise Busy("not now", cause="HTTP 503")


def is_told_without_asking(address: Address) -> bool:
    """Whether a run learns that nobody answers without a request of its own."""
    asked: list[bool] = []
    with pytest.raises(Unreachable, match="nobody there") as caught:
        address.call(lambda: asked.append(True))
    assert (caught.value.retry_after_s or 0) > 0
    return not asked


def test_while_nobody_answers_one_request_at_a_time_asks_and_others_learn_what_it_met() -> None:
    now = [0.0]
    address = Address(clock=lambda: now[0])
    with pytest.raises(Unreachable) as first:
        address.call(fails)
    assert is_told_without_asking(address)
    now[0] += (first.value.retry_after_s or 0) + 1

    def asks_while_another_run_wants_to() -> None:
        assert is_told_without_asking(address)
        fails()

    with pytest.raises(Unreachable):
        address.call(asks_while_another_run_wants_to)
    assert is_told_without_asking(address)


@pytest.mark.parametrize("answer", [lambda: None, refuses])
def test_any_answer_lets_all_go_on(answer: Callable[[], None]) -> None:
    address = Address(clock=lambda: 0.0)
    with pytest.raises(Unreachable):
        address.call(fails)
    address.ask_now()
    with suppress(Busy):
        address.call(answer)
    assert address.call(lambda: 7) == 7


def test_an_address_answers_with_any_answer_and_not_with_a_failure() -> None:
    now = [10.0]
    address = Address(clock=lambda: now[0])
    with pytest.raises(Unreachable):
        address.call(fails)
    assert not address.answers_since(0.0)
    address.ask_now()
    with suppress(Busy):
        address.call(refuses)
    assert address.answers_since(10.0)
    assert not address.answers_since(10.5)
