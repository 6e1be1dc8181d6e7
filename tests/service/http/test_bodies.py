import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_service.http.bodies import FREE_BYTES, BodyBudget, BodyCount
from tests.fakes.memory_connection import memory_connection

LIMIT = 4 << 20


@pytest.fixture
def budget() -> BodyBudget:
    return BodyBudget(LIMIT)


def test_a_small_body_is_read_however_much_is_taken(budget: BodyBudget) -> None:
    budget.taken_bytes = LIMIT
    assert BodyCount(budget).add(FREE_BYTES)
    assert budget.taken_bytes == LIMIT


def test_the_bodies_of_all_connections_share_the_budget(budget: BodyBudget) -> None:
    first, second = BodyCount(budget), BodyCount(budget)
    assert first.add(FREE_BYTES + LIMIT)
    assert not second.add(FREE_BYTES + 1)
    first.release()
    assert second.add(FREE_BYTES + 1)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2 << 20) | st.none()), max_size=30))
def test_the_budget_is_kept_and_everything_comes_back(steps: list[tuple[int, int | None]]) -> None:
    budget = BodyBudget(LIMIT)
    counts = [BodyCount(budget) for _ in range(3)]
    for number, size in steps:
        if size is None:
            counts[number].release()
        else:
            counts[number].add(size)
        assert 0 <= budget.taken_bytes <= LIMIT
    for count in counts:
        count.release()
    assert budget.taken_bytes == 0


def head(size: int, path: str = "/v1/messages") -> bytes:
    return f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {size}\r\n\r\n".encode()


def test_a_body_beyond_the_budget_is_refused_in_the_shape_of_its_path_and_ends_its_connection(
    budget: BodyBudget,
) -> None:
    with memory_connection(bodies=budget) as client:
        size = FREE_BYTES + LIMIT + 1
        client.send(head(size) + b"x" * size)
        reply = client.reply()
        assert (reply.status, reply.headers["retry-after"]) == (529, "5")
        assert (reply.body["type"], reply.body["error"]["type"]) == ("error", "overloaded_error")  # as Anthropic has it
        assert "4 MiB" in reply.body["error"]["message"]
        assert reply.headers["request-id"] == reply.headers["x-request-id"]  # the clients of Anthropic look for that
        assert client.is_ended
    assert budget.taken_bytes == 0


def test_a_body_is_counted_until_its_answer_is_complete(budget: BodyBudget) -> None:
    with memory_connection(bodies=budget) as client:
        client.send(head(FREE_BYTES + 7, "/wait") + b"x" * (FREE_BYTES + 7))
        assert budget.taken_bytes == 7
        client.let_answer()
        assert (client.reply().status, budget.taken_bytes) == (200, 0)
        client.send(head(FREE_BYTES + LIMIT, "/a") + b"x" * (FREE_BYTES + LIMIT))
        assert (client.reply().status, budget.taken_bytes) == (200, 0)


def test_a_client_that_leaves_takes_its_body_with_it(budget: BodyBudget) -> None:
    with memory_connection(bodies=budget) as client:
        client.send(head(LIMIT, "/a") + b"x" * (FREE_BYTES + 7))
        assert budget.taken_bytes == 7
        client.transport.lose()
        client.loop.settle()
        assert budget.taken_bytes == 0


def test_what_follows_an_early_answer_is_dropped_and_takes_nothing_of_the_budget(budget: BodyBudget) -> None:
    """Otherwise callers without a key could take all of it: they are refused before their bodies are read."""
    with memory_connection(bodies=budget) as client:
        client.send(head(FREE_BYTES + LIMIT + 7, "/early"))
        assert client.reply().status == 200
        client.send(b"x" * (FREE_BYTES + LIMIT + 7))
        assert budget.taken_bytes == 0
        client.send(b"GET /a HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (client.reply().status, budget.taken_bytes) == (200, 0)
