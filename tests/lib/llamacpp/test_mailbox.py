from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from neuron_lib.engine.protocol import Began, Delta, Done
from neuron_lib.errors import EngineDead, EngineFailed
from neuron_lib.llamacpp.engine_client import News
from neuron_lib.llamacpp.mailbox import Mailbox
from neuron_lib.types import FinishReason, TokenLogprob
from tests.fakes.turns import let_others_run

pytestmark = pytest.mark.anyio

DONE = Done(
    request=1,
    reason=FinishReason.STOP,
    text="",
    prompt_tokens=1,
    completion_tokens=1,
    prefill_s=0.0,
    decode_s=0.0,
)


async def test_mail_comes_out_in_order() -> None:
    mailbox = Mailbox()
    mailbox.hear(Delta(1, "a"))
    mailbox.hear(DONE)
    assert [await mailbox.get(), await mailbox.get()] == [Delta(1, "a"), DONE]


async def test_a_reader_waits_for_mail() -> None:
    mailbox, got = Mailbox(), list[News]()

    async def read() -> None:
        got.append(await mailbox.get())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        await let_others_run()
        assert got == []
        mailbox.hear(DONE)
    assert got == [DONE]


async def test_a_failure_comes_after_what_was_delivered_and_the_first_one_counts() -> None:
    mailbox = Mailbox()
    mailbox.hear(Delta(1, "a"))
    mailbox.fail(EngineFailed("first"))
    mailbox.fail(EngineDead("m", "second"))
    mailbox.hear(DONE)  # as of a request that was refused while its engine began it
    assert await mailbox.get() == Delta(1, "a")
    for _ in range(2):
        with pytest.raises(EngineFailed, match="first"):
            await mailbox.get()


async def test_a_failure_wakes_a_reader() -> None:
    mailbox = Mailbox()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(let_others_run)
        tasks.start_soon(fail_later, mailbox)
        with pytest.raises(EngineFailed):
            await mailbox.get()


async def fail_later(mailbox: Mailbox) -> None:
    await let_others_run()
    mailbox.fail(EngineFailed("later"))


async def test_a_slow_reader_costs_no_memory_per_token_and_loses_no_text() -> None:
    mailbox = Mailbox()
    for number in range(1000):
        mailbox.hear(Delta(1, f"{number} "))
    mailbox.hear(DONE)
    mails = [await mailbox.get()]
    while mails[-1] is not DONE:
        mails.append(await mailbox.get())
    deltas = [mail for mail in mails if isinstance(mail, Delta)]
    assert len(deltas) == 64
    assert "".join(delta.text for delta in deltas) == "".join(f"{number} " for number in range(1000))
    assert sum(delta.tokens for delta in deltas) == 1000


async def test_what_a_slow_reader_gets_merged_is_merged_within_its_choice() -> None:
    mailbox, token = Mailbox(), TokenLogprob(b"x", -0.5)
    for number in range(1000):
        for choice in range(3):
            mailbox.hear(Delta(1, f"{number}:{choice} ", 2, choice, (token,)))
    mails: list[News] = []
    mailbox.hear(DONE)
    while DONE not in mails:
        mails.append(await mailbox.get())
    assert len(mails) <= 64 + 3
    for choice in range(3):
        deltas = [mail for mail in mails if isinstance(mail, Delta) and mail.choice == choice]
        assert "".join(delta.text for delta in deltas) == "".join(f"{number}:{choice} " for number in range(1000))
        assert sum(delta.tokens for delta in deltas) == 2000
        assert sum((delta.logprobs for delta in deltas), ()) == (token,) * 1000


async def test_a_choice_that_speaks_late_to_a_slow_reader_is_heard() -> None:
    mailbox = Mailbox()
    for number in range(100):
        mailbox.hear(Delta(1, f"{number} "))
    mailbox.hear(Delta(1, "late", choice=1))
    mailbox.hear(DONE)
    mails = [await mailbox.get() for _ in range(66)]
    assert mails[-2:] == [Delta(1, "late", choice=1), DONE]


async def test_a_full_mailbox_lets_other_tasks_run() -> None:
    mailbox, turns = Mailbox(), 0

    async def others() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(others)
        for _ in range(50):
            mailbox.hear(Delta(1, "a"))
        for _ in range(50):
            await mailbox.get()
        tasks.cancel_scope.cancel()
    assert turns >= 25


async def test_a_cancelled_reader_takes_no_mail_with_it() -> None:
    mailbox = Mailbox()
    mailbox.hear(Delta(1, "a"))
    with anyio.CancelScope() as scope:
        scope.cancel()
        await mailbox.get()
    assert await mailbox.get() == Delta(1, "a")


# ------------------------------------------------------------------------------------------------------------- relays


class Relay:
    """Takes deltas, and has room for more as long as `room` says so."""

    def __init__(self, *, room: int = 1000, error: Exception | None = None) -> None:
        self.taken: list[str] = []
        self._room = room
        self._error = error

    def __call__(self, delta: Delta) -> bool:
        if self._error is not None:
            raise self._error
        self.taken.append(delta.text)
        return len(self.taken) < self._room


@asynccontextmanager
async def read_by_a_waiting_task(mailbox: Mailbox) -> AsyncIterator[list[News]]:
    """What a task got that reads until the end; it waits for mail when the block begins."""
    got: list[News] = []

    async def read() -> None:
        while DONE not in got:
            got.append(await mailbox.get())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        await let_others_run()
        yield got


async def test_deltas_that_come_while_the_reader_waits_go_to_the_relay_and_all_else_to_the_reader() -> None:
    mailbox, relay = Mailbox(), Relay()
    mailbox.relay = relay
    async with read_by_a_waiting_task(mailbox) as got:
        for text in "ab":
            mailbox.hear(Delta(1, text))
        await let_others_run()
        assert (relay.taken, got) == (["a", "b"], [])
        mailbox.hear(DONE)
    assert got == [DONE]


async def test_no_delta_overtakes_what_the_reader_has_not_read_yet() -> None:
    mailbox, relay = Mailbox(), Relay()
    mailbox.relay = relay
    mailbox.hear(Delta(1, "before"))
    async with read_by_a_waiting_task(mailbox) as got:
        mailbox.hear(Began(1))
        mailbox.hear(Delta(1, "behind it"))
        assert relay.taken == []
        await let_others_run()
        mailbox.hear(Delta(1, "later"))
        mailbox.hear(DONE)
    assert (got, relay.taken) == ([Delta(1, "before"), Began(1), Delta(1, "behind it"), DONE], ["later"])


async def test_a_relay_without_room_leaves_the_next_delta_to_the_reader_and_is_asked_again_behind_it() -> None:
    mailbox, relay = Mailbox(), Relay(room=1)
    mailbox.relay = relay
    async with read_by_a_waiting_task(mailbox) as got:
        for text in "abc":
            mailbox.hear(Delta(1, text))
        await let_others_run()
        mailbox.hear(Delta(1, "d"))
        mailbox.hear(DONE)
    assert (relay.taken, got) == (["a", "d"], [Delta(1, "b"), Delta(1, "c"), DONE])


async def test_a_relay_that_raises_fails_the_mailbox_and_nobody_else() -> None:
    mailbox = Mailbox()
    mailbox.relay = Relay(error=ZeroDivisionError("a bug"))

    async def speak() -> None:
        await let_others_run()
        mailbox.hear(Delta(1, "a"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(speak)
        with pytest.raises(ZeroDivisionError, match="a bug"):
            await mailbox.get()


async def test_nothing_is_relayed_when_the_reader_has_stopped_waiting() -> None:
    mailbox, relay = Mailbox(), Relay()
    mailbox.relay = relay
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(mailbox.get)
            await let_others_run()
            scope.cancel()
    mailbox.hear(Delta(1, "a"))
    assert (relay.taken, await mailbox.get()) == ([], Delta(1, "a"))
