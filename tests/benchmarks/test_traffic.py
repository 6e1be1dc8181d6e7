"""What the benchmark sends is the same to every server and new in every round."""

from benchmarks.traffic import FULL, Load, SecondTurn, second_turn, traffics


def prompts(number: int) -> list[str]:
    loads = [traffic for traffic in traffics(number, FULL) if isinstance(traffic, Load)]
    return [chat[0]["content"] for load in loads for chat in load.conversations]


def test_every_server_is_sent_the_same() -> None:
    assert list(traffics(3, FULL)) == list(traffics(3, FULL))


def test_no_text_of_a_round_was_in_the_round_before() -> None:
    assert not set(prompts(1)) & set(prompts(2))


def test_long_prompts_of_two_rounds_share_no_words_in_the_same_order() -> None:
    endings = [{prompt.split(" ", 1)[1] for prompt in prompts(number) if len(prompt) > 1000} for number in (1, 2)]
    assert len(endings[0]) == 17
    assert not endings[0] & endings[1]


def test_a_shared_prompt_is_one_prompt_with_a_question_for_each_request() -> None:
    load = next(t for t in traffics(1, FULL) if isinstance(t, Load) and t.name == "shared-prompt")
    assert len({chat[0]["content"] for chat in load.conversations}) == load.distinct_prompts == 1
    assert len({chat[1]["content"] for chat in load.conversations}) == len(load.conversations) == 24


def test_distinct_prompts_differ_from_their_first_words_on() -> None:
    load = next(t for t in traffics(1, FULL) if isinstance(t, Load) and t.name == "distinct-prompts")
    assert len({chat[0]["content"].split()[0] for chat in load.conversations}) == load.distinct_prompts == 16


def test_a_second_turn_goes_on_where_the_first_ended_and_its_cold_twin_is_as_long_in_other_words() -> None:
    chats = next(t for t in traffics(1, FULL) if isinstance(t, SecondTurn)).chats
    for first, fresh in chats:
        assert second_turn(first, "A reply.")[: len(first) + 1] == (
            *first,
            {"role": "assistant", "content": "A reply."},
        )
        assert first[0]["content"] != fresh[0]["content"]
        assert len(first[0]["content"].split()) == len(fresh[0]["content"].split())
