"""A real model writes what a grammar says: its likeliest token where that is allowed, else the likeliest that is."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
import pytest
from msgspec import Meta, Struct

from neuron_lib.llama.batch import Batch
from neuron_lib.llama.bindings import init_backend, route_logs
from neuron_lib.llama.context import Context, DecodeStatus
from neuron_lib.llama.grammar import GrammarCompiler
from neuron_lib.llama.model import Model
from neuron_lib.types import ContextParams, Grammar

pytestmark = pytest.mark.model

MAX_TOKENS: Final = 120


class City(Struct, forbid_unknown_fields=True):
    city: Annotated[str, Meta(max_length=20)]
    population: Annotated[int, Meta(ge=0, le=99_999_999)]


class Verdict(Struct, forbid_unknown_fields=True):
    answer: Literal["yes", "no"]
    reason: Annotated[str, Meta(max_length=60)]


class Fruit(Struct, forbid_unknown_fields=True):
    name: Annotated[str, Meta(max_length=20)]
    price: Annotated[float, Meta(ge=0, le=100)]


class Shop(Struct, forbid_unknown_fields=True):
    fruits: Annotated[list[Fruit], Meta(min_length=2, max_length=3)]


@pytest.fixture(scope="module")
def model(smollm2_path: Path) -> Iterator[Model]:
    init_backend()
    route_logs(lambda _level, _text: None)
    with Model(smollm2_path, gpu_layers=0, on_progress=lambda _fraction: True) as loaded:
        yield loaded


def write(model: Model, grammar: Grammar, question: str) -> str:
    """The greedy reply, which must come to its end by itself."""
    vocab = model.vocab
    constraint = GrammarCompiler(vocab).compile(grammar)
    prompt = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    pending, position, reply = vocab.tokenize(prompt, add_special=True), 0, b""
    batch = Batch(128)
    with Context(model, ContextParams(n_ctx=256, n_batch=128, n_ubatch=128, threads=2), seats=1) as context:
        for _ in range(MAX_TOKENS):
            batch.clear()
            row = batch.add(0, pending, position=position, wants_logits=True)
            position += len(pending)
            assert context.decode(batch) is DecodeStatus.OK
            scores = context.logits(row).copy()
            token = int(scores.argmax())
            if not constraint.allows(token):
                constraint.mask(scores)
                token = int(scores.argmax())
            constraint.accept(token)
            if token in vocab.eog:
                return reply.decode()
            reply += vocab.piece(token)
            if constraint.is_complete:
                return reply.decode()
            pending = [token]
    pytest.fail(f"no end after {MAX_TOKENS} tokens: {reply!r}")


@pytest.mark.parametrize(
    ("shape", "question"),
    [
        (City, "Give me Paris as JSON with city and population."),
        (Verdict, "Is the sky blue? Answer in JSON with answer (yes or no) and reason."),
        (Shop, "Name some fruits with their price, as JSON."),
        (City, "Write a poem about the sea."),
    ],
)
def test_a_reply_bound_by_a_schema_fulfils_it(model: Model, shape: type[Struct], question: str) -> None:
    reply = write(model, Grammar("json_schema", json.dumps(msgspec.json.schema(shape))), question)
    msgspec.json.decode(reply, type=shape, strict=True)


@pytest.mark.parametrize("pattern", [r"(yes|no)", r"[A-Z][a-z]{2,10}( [a-z]{2,10}){2,6}\.", r"\d{4}-\d{2}-\d{2}"])
def test_a_reply_bound_by_a_regular_expression_matches_it(model: Model, pattern: str) -> None:
    assert re.fullmatch(pattern, write(model, Grammar("regex", pattern), "When was the war?"))


def test_a_reply_bound_by_a_grammar_is_read_by_it(model: Model) -> None:
    lark = 'start: "MOVE " steps "."\nsteps: step ("," step){1,3}\nstep: ("north" | "south" | "east") " " /[1-9]/'
    reply = write(model, Grammar("lark", lark), "Which way do I go?")
    assert re.fullmatch(r"MOVE (north|south|east) [1-9](,(north|south|east) [1-9]){1,3}\.", reply)
