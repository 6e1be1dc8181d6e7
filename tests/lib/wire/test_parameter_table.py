"""The table of parameters in the reference says what the code does with each of them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import fields
from openai.types.chat import ChatCompletionStreamOptionsParam
from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming

from neuron_lib.errors import InvalidRequest
from neuron_lib.wire import openai_chat
from neuron_lib.wire.refused_parameters import WITHOUT_EFFECT

REFERENCE = Path(__file__).parents[3] / "docs/reference/http-api.md"

OPENAI = " ".join(CompletionCreateParamsStreaming.__annotations__)
VLLM = """
    add_generation_prompt add_special_tokens allowed_token_ids bad_words cache_salt chat_template chat_template_kwargs
    continue_final_message documents ec_transfer_params echo frequency_penalty guided_choice guided_decoding_backend
    guided_grammar guided_json guided_regex guided_whitespace_pattern ignore_eos include_reasoning
    include_stop_str_in_output kv_transfer_params length_penalty logit_bias logprob_token_ids logprobs
    max_completion_tokens max_tokens media_io_kwargs messages min_p min_tokens mm_processor_kwargs model n
    parallel_tool_calls presence_penalty priority prompt_logprobs reasoning_effort repetition_detection
    repetition_penalty request_id response_format return_mm_kwargs return_prompt_text return_token_ids
    return_token_offsets return_tokens_as_token_ids routed_experts_prompt_start seed session_id skip_special_tokens
    spaces_between_special_tokens stop stop_token_ids stream stream_interval stream_options structural_tag
    structured_outputs temperature thinking_token_budget tool_choice tools top_k top_logprobs top_p
    truncate_prompt_tokens truncation_side use_beam_search user vllm_xargs watermarking
"""
LLAMA_CPP = """
    add_generation_prompt cache_prompt chat_template_kwargs dry_allowed_length dry_base dry_multiplier
    dry_penalty_last_n dry_sequence_breakers dynatemp_exponent dynatemp_range frequency_penalty generation_prompt
    grammar grammar_lazy grammar_triggers id_slot ignore_eos json_schema logit_bias lora max_tokens min_keep min_p
    mirostat mirostat_eta mirostat_tau n_cache_reuse n_cmpl n_discard n_indent n_keep n_predict n_probs
    parallel_tool_calls parse_tool_calls post_sampling_probs presence_penalty preserved_tokens reasoning_format
    reasoning_in_content repeat_last_n repeat_penalty response_fields return_progress return_tokens samplers seed
    speculative.n_max speculative.n_min speculative.p_min sse_ping_interval stop stream t_max_predict_ms temperature
    thinking_forced_open timings_per_token top_k top_n_sigma top_p typical_p xtc_probability xtc_threshold
"""


def rows() -> Iterator[tuple[tuple[str, ...], str, str]]:
    """Each row of the table: its parameters, what happens to them, and the text beside."""
    section = REFERENCE.read_text().split("### Every parameter\n")[1].split("\n## ")[0]
    for line in re.findall(r"^\| `.*\|$", section, re.MULTILINE):
        names, verdict, text = (cell.strip() for cell in line.strip("|").split(" | ", 2))
        yield tuple(re.findall(r"`([^`]+)`", names)), verdict, text.strip(" |")


def names_that_are(verdict: str) -> list[str]:
    return [name for names, found, _ in rows() if found == verdict for name in names]


def decode(**parameters: Any) -> openai_chat.ChatCompletionRequest:
    body = {"model": "a/b", "messages": [{"role": "user", "content": "hi"}], **parameters}
    return openai_chat.decode(json.dumps(body).encode(), headers={"content-type": "application/json"}, principal=None)


def test_a_parameter_stands_in_the_table_once_and_with_one_verdict() -> None:
    names = [name for names, _, _ in rows() for name in names]
    assert sorted(names) == sorted(set(names))
    assert {verdict for _, verdict, _ in rows()} == {"honoured", "refused", "ignored"}


def test_what_the_table_calls_honoured_is_what_a_body_is_read_for() -> None:
    assert set(names_that_are("honoured")) == {field.name for field in fields(openai_chat.ChatCompletionBody)}


def test_what_the_table_calls_refused_is_what_is_refused() -> None:
    assert set(names_that_are("refused")) == set(WITHOUT_EFFECT)


@pytest.mark.parametrize("name", WITHOUT_EFFECT)
def test_the_table_names_the_values_that_are_accepted(name: str) -> None:
    (text,) = (text for names, _, text in rows() if name in names)
    unless = re.search(r"unless ((?:`[^`]+`(?: or )?)+)", text)
    told = [json.loads(value) for value in re.findall(r"`([^`]+)`", unless[1])] if unless else []
    assert sorted(map(json.dumps, told)) == sorted(map(json.dumps, WITHOUT_EFFECT[name]))
    for value in told:
        assert decode(**{name: value}) == decode()
    with pytest.raises(InvalidRequest) as caught:
        decode(**{name: "something else"})
    assert caught.value.param == name


@pytest.mark.parametrize("name", names_that_are("ignored"))
@pytest.mark.parametrize("value", ["x", 7, True, ["x"], {"x": 1}])
def test_what_the_table_calls_ignored_has_no_effect(name: str, value: object) -> None:
    assert decode(**{name: value}) == decode()


@pytest.mark.parametrize("documented", [OPENAI, VLLM, LLAMA_CPP], ids=["OpenAI", "vLLM", "llama.cpp"])
def test_the_table_has_every_parameter_that_another_server_documents(documented: str) -> None:
    names = documented.split()
    assert len(names) > 30
    assert set(names) - {name for names, _, _ in rows() for name in names} == set()


def test_every_option_of_a_stream_that_openai_documents_is_named() -> None:
    (text,) = (text for names, _, text in rows() if "stream_options" in names)
    assert set(ChatCompletionStreamOptionsParam.__annotations__) <= set(re.findall(r"`(\w+)`", text))
