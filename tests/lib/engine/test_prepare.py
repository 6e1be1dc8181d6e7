import logging
import signal
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import msgspec
import pytest

from neuron_lib.engine.pair_writer import PairWriter
from neuron_lib.engine.prepare import PreparedPrompt, Preparer, checkpoints_of
from neuron_lib.engine.prompt_writer import Templates
from neuron_lib.engine.protocol import (
    ChatTask,
    CompleteTask,
    DetokenizeTask,
    EmbedTask,
    Limits,
    RequestClass,
    RerankTask,
    Submit,
    Text,
    TokenizeTask,
    Tokens,
)
from neuron_lib.errors import (
    InvalidRequest,
    LoadFailed,
    PromptTooLong,
    TemplateFailed,
    UnsupportedCapability,
    cause_chain,
)
from neuron_lib.llama.control_tokens import ControlToken
from neuron_lib.llama.vocab import Vocab
from neuron_lib.sampling.sampler import Constraint
from neuron_lib.text.formats import FORMATS, GENERIC, ToolFormat
from neuron_lib.types import Sampling, ToolChoice

HELLO = ChatTask(messages=({"role": "user", "content": "hello"},))
CHATML = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
WITH_TOOLS = ChatTask(messages=HELLO.messages, tools=({"type": "function", "function": {"name": "f"}},))


class WordVocab(Vocab):
    """Every word is a token; the beginning is `<s>` and is added on request, token 2 ends a message."""

    def __init__(self, bos: str = "<s>") -> None:
        self._bos = bos
        self.n_tokens = 3
        self.eog = frozenset({2})  # type: ignore[misc]  # the real one asks libllama

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool = True) -> list[int]:
        assert parse_special
        return [0] * add_special + [2 if word.endswith("</s>") else 1 for word in text.split()]

    @property
    def bos(self) -> str:
        return self._bos

    @property
    def eos(self) -> str:
        return "</s>"


class SilentVocab(WordVocab):
    """Adds nothing to a text."""

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool = True) -> list[int]:
        del add_special
        return super().tokenize(text, add_special=False, parse_special=parse_special)


class LetterVocab(Vocab):
    """Every letter is a token, and `<s>` is token 0 where special tokens are read. A model that wants BOS."""

    def __init__(self) -> None:
        self.n_tokens = 300
        self.eog = frozenset()  # type: ignore[misc]  # the real one asks libllama

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool = True) -> list[int]:
        parts = text.split("<s>") if parse_special else [text]
        tokens = [token for part in parts for token in (0, *part.encode())][1:]
        return [0] * add_special + tokens

    def text(self, token: int) -> bytes:
        return bytes((token,)) if token else b"<s>"

    def effort(self, text: str) -> int:
        return len(text)

    @property
    def bos(self) -> str:
        return "<s>"

    @property
    def eos(self) -> str:
        return ""


class OneOfMany:
    """A constraint that remembers which one it is a copy of."""

    def __init__(self, source: "OneOfMany | None" = None) -> None:
        self.source = source

    def copy(self) -> "OneOfMany":
        return OneOfMany(self)


def preparer(
    template: str | None,
    *,
    override: str | None = None,
    vocab: Vocab | None = None,
    needs_checkpoints: bool = False,
    tool_format: ToolFormat = GENERIC,
) -> Preparer:
    return Preparer(
        vocab or WordVocab(),
        template=template,
        override=override,
        n_ctx=64,
        needs_checkpoints=needs_checkpoints,
        tool_format=tool_format,
    )


def test_the_model_s_own_template_is_used() -> None:
    own = preparer("{{ bos_token }}[{{ messages[0].content }}]{{ eos_token }}")
    assert own.write(HELLO)[0].text == "<s>[hello]</s>"


def test_arguments_of_the_request_reach_the_template() -> None:
    own = preparer("{{ 'think' if enable_thinking else 'do not' }}")
    chat = ChatTask(messages=HELLO.messages, template_kwargs={"enable_thinking": True})
    assert own.write(chat)[0].text == "think"


def test_a_model_without_a_template_gets_chatml_and_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        fallback = preparer(None)
    assert (fallback.write(HELLO)[0].text, Templates().kind) == (CHATML, "fallback")
    assert "ChatML is used" in caplog.text


@pytest.mark.parametrize(
    ("template", "cause"),
    [
        ("{% for", "TemplateSyntaxError"),
        ("{{ raise_exception('no') }}", "no"),
        ("{{ messages[7].content.x }}", "UndefinedError"),
    ],
)
@pytest.mark.parametrize("has_tools", [False, True])
def test_a_template_that_does_not_work_is_never_replaced(
    template: str,
    cause: str,
    has_tools: bool,  # noqa: FBT001 - a parameter
) -> None:
    own = preparer(template)
    with pytest.raises(TemplateFailed) as caught:
        own.write(WITH_TOOLS if has_tools else HELLO)
    assert cause in cause_chain(caught.value)
    assert Templates(own=template).kind == "model"


def test_an_operator_s_template_is_used_instead_of_the_model_s_own() -> None:
    overridden = preparer("{{ 'own' }}", override="{{ bos_token }}[{{ messages[0].content }}]")
    assert overridden.write(HELLO)[0].text == "<s>[hello]"


def test_an_operator_s_template_that_does_not_compile_is_an_error_and_never_replaced() -> None:
    with pytest.raises(LoadFailed, match="configured `chat_template`") as caught:
        preparer("{{ 'own' }}", override="{% for")
    assert "cannot be compiled: TemplateSyntaxError" in cause_chain(caught.value)


def test_what_an_operator_s_template_refuses_is_refused() -> None:
    with pytest.raises(TemplateFailed):
        preparer("{{ 'own' }}", override="{{ raise_exception('no') }}").write(HELLO)


@pytest.mark.parametrize("template", [None, "{{ messages[0].content }}"])
def test_tools_that_the_template_does_not_show_are_described_in_the_system_message(template: str | None) -> None:
    (prompt,) = preparer(template, tool_format=FORMATS["lfm2"]).write(WITH_TOOLS)
    expected = ("You can call these functions", '"name": "f"', "[FUNCTION(ARGUMENT='VALUE')]")
    assert all(text in prompt.text for text in expected)


def test_tools_that_no_message_can_show_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="does not show them") as caught:
        preparer("{{ messages[-1].content[:9] }}").write(WITH_TOOLS)
    assert caught.value.param == "tools"


def test_calls_and_results_that_the_template_does_not_show_become_text() -> None:
    (prompt,) = preparer(OF_PEOPLE).write(ChatTask(messages=(*RESULTS, {"role": "user", "content": "and?"})))
    assert prompt.text == (
        '<user>go<assistant><tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
        "<user><tool_response>\n 42\n\n</tool_response>\nand?"
    )


RESULTS = (
    {"role": "user", "content": "go"},
    {
        "role": "assistant",
        "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    },
    {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": " 42\n"}]},
)
OF_PEOPLE = "{% for m in messages if m.role in ['user', 'assistant'] %}<{{ m.role }}>{{ m.content }}{% endfor %}"


def test_calls_of_a_template_that_shows_only_tools_become_text_in_the_format_of_the_model() -> None:
    template = "{{ tools or '' }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    (prompt,) = preparer(template, tool_format=FORMATS["granite3"]).write(ChatTask(messages=RESULTS))
    assert prompt.text == '<user>go<assistant><|tool_call|>[{"name": "f", "arguments": {}}]<tool> 42\n'


def test_results_of_tools_that_the_template_leaves_out_are_refused() -> None:
    own = preparer(OF_PEOPLE + "{{ tools or '' }}")
    assert own.write(HELLO)[0].text == "<user>hello"
    with pytest.raises(InvalidRequest, match="does not show the results of tools") as caught:
        own.write(ChatTask(messages=RESULTS))
    assert caught.value.param == "messages"


def test_results_of_tools_that_the_template_shows_in_this_chat_alone_are_shown() -> None:
    in_this_chat = "{% if messages[0].content == 'go' %}{{ messages[2].content | trim }}{% endif %}"
    own = preparer(OF_PEOPLE + "{{ tools or '' }}" + in_this_chat)
    assert own.write(ChatTask(messages=RESULTS))[0].text.endswith("</tool_call>42")


def test_arguments_go_as_text_to_a_template_that_cannot_do_with_objects() -> None:
    # One that shows nothing of a short chat, so that nothing is known of it beforehand.
    source = (
        "{{ raise_exception('no') if messages[0].content != 'go' }}"
        "{{ '!' + messages[1].tool_calls[0].function.arguments }}"
    )
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a":  1}'}}
    messages = ({"role": "user", "content": "go"}, {"role": "assistant", "content": None, "tool_calls": [call]})
    assert preparer(source).write(ChatTask(messages=messages))[0].text == '!{"a":  1}'


def test_of_two_failures_the_first_is_told() -> None:
    source = "{{ raise_exception('text' if messages[1].tool_calls[0].function.arguments is string else 'object') }}"
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = ({"role": "user", "content": "go"}, {"role": "assistant", "content": None, "tool_calls": [call]})
    with pytest.raises(TemplateFailed) as caught:
        preparer(source).write(ChatTask(messages=messages))
    assert "object" in cause_chain(caught.value)


def test_the_model_s_template_for_tools_is_used_where_there_are_some() -> None:
    own = Preparer(
        WordVocab(),
        template="{{ messages[0].content }}",
        tool_template="{{ messages[0].content }}{% for t in tools %}+{{ t.function.name }}{% endfor %}",
        n_ctx=64,
    )
    assert [own.write(chat)[0].text for chat in (HELLO, WITH_TOOLS)] == ["hello", "hello+f"]


def test_a_prompt_is_never_made_without_its_tools() -> None:
    with pytest.raises(TemplateFailed):
        preparer("{{ raise_exception('no tools here') }}").write(WITH_TOOLS)


def test_a_template_that_takes_too_long_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neuron_lib.engine.prepare._RENDER_LIMIT_S", 0.05)
    endless = preparer("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}")
    with pytest.raises(TemplateFailed):
        endless.write(WITH_TOOLS)
    with pytest.raises(TemplateFailed):
        endless.write(HELLO)
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


@pytest.mark.parametrize(("prompt", "tokens"), [("<s> one two", 3), ("one two", 3), ("", 1)])
def test_a_prompt_begins_with_one_bos(prompt: str, tokens: int) -> None:
    assert len(preparer(None).tokenize(prompt)) == tokens


def test_a_model_without_bos_leaves_the_beginning_to_the_tokenizer() -> None:
    assert len(preparer(None, vocab=WordVocab(bos="")).tokenize("one")) == 2


def test_of_a_prompt_that_is_far_too_long_only_the_beginning_is_tokenized(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    class CountingVocab(WordVocab):
        def tokenize(self, text: str, *, add_special: bool, parse_special: bool = True) -> list[int]:
            read.append(len(text))
            return super().tokenize(text, add_special=add_special, parse_special=parse_special)

    monkeypatch.setattr("neuron_lib.engine.prepare._LOOK_CHARS", 100)
    own = preparer(None, vocab=CountingVocab())
    assert own.count_beyond_use("a " * 50_000) == 50_000
    assert read == [100, 100, 100]


@pytest.mark.parametrize("prompt", ["a " * 32, "a " * 64, "a" * 1_000])
def test_a_prompt_that_may_fit_is_never_judged_by_its_beginning(monkeypatch: pytest.MonkeyPatch, prompt: str) -> None:
    monkeypatch.setattr("neuron_lib.engine.prepare._LOOK_CHARS", 16)
    assert preparer(None).count_beyond_use(prompt) is None


def test_a_chat_becomes_the_prompt_s_text_and_tokens() -> None:
    prompt = preparer("{{ messages[0].content }} </s> go on").prepare(HELLO)
    assert (prompt.text, prompt.tokens, prompt.begin) == ("hello </s> go on", [0, 1, 2, 1, 1], None)


@pytest.mark.parametrize(("most", "limit"), [(100, 63), (50, 50)])
def test_a_prompt_that_leaves_no_room_for_a_reply_or_exceeds_the_host_s_limit_is_refused_with_the_numbers(
    most: int, limit: int
) -> None:
    own = preparer("{{ 'a ' * 63 }}")  # and a BOS, in a context of 64 tokens
    with pytest.raises(PromptTooLong) as caught:
        own.read(*own.write(HELLO), limit=own.limit(submit(most=most)))
    assert caught.value.fields == {"prompt_len": 64, "max": limit}


def test_a_prompt_that_fills_its_limit_is_taken() -> None:
    own = preparer("{{ 'a ' * 62 }}")
    assert len(own.read(*own.write(HELLO), limit=63).tokens) == 63


def test_a_prompt_that_is_far_too_long_is_only_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neuron_lib.engine.prepare._LOOK_CHARS", 400)
    with pytest.raises(PromptTooLong) as caught:
        preparer("{{ 'a ' * 5000 }}").prepare(HELLO)
    assert caught.value.fields == {"prompt_len": 5000, "max": 63}


def test_a_text_to_go_on_with_is_a_prompt_that_no_template_changes() -> None:
    own = preparer("{{ 'never' }}")
    assert own.prepare(CompleteTask(prompt="one two")) == PreparedPrompt("one two", [0, 1, 1])
    assert own.prepare(CompleteTask(prompt=(2, 1, 2))) == PreparedPrompt("", [2, 1, 2])


def test_every_prompt_has_its_choices_and_their_seeds_and_more_than_there_are_seats_take_turns() -> None:
    own = Preparer(WordVocab(), template=None, n_ctx=64, seats=3)
    task = CompleteTask(prompt="one two", more_prompts=((2, 1),), choices=2)
    complete = msgspec.structs.replace(submit(), task=task, sampling=Sampling(temperature=1, seed=7))
    request = own.request(complete, [own.read(prompt, limit=63) for prompt in own.write(task)])
    assert request.seats == 3
    assert [(s.choice, s.prompt) for s in request.sequences] == [
        (0, [0, 1, 1]),
        (1, [0, 1, 1]),
        (2, [2, 1]),
        (3, [2, 1]),
    ]
    assert all(sequence.sampler is not None for sequence in request.sequences)


class FillingVocab(LetterVocab):
    """Has markers to fill in the middle of a text: `<P>`, `<S>` and `<M>`, tokens 1 to 3."""

    fill_in_middle = ("<P>", "<S>", "<M>")

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool = True) -> list[int]:
        if parse_special and text in self.fill_in_middle:
            return [0] * add_special + [1 + self.fill_in_middle.index(text)]
        return super().tokenize(text, add_special=add_special, parse_special=parse_special)


@pytest.mark.parametrize("prompt", ["ab", "", "<S>"])
def test_what_belongs_between_two_texts_is_asked_for_by_the_vocabulary_s_markers(prompt: str) -> None:
    own = Preparer(FillingVocab(), template=None, n_ctx=64)
    task = CompleteTask(prompt=prompt, suffix="c<M>")
    assert own.prepare(task).tokens == [0, 1, *prompt.encode(), 2, *b"c<M>", 3]


@pytest.mark.parametrize(
    ("vocab", "prompt"), [(FillingVocab(), (1, 2)), (LetterVocab(), "ab")], ids=["tokens", "no markers"]
)
def test_a_suffix_that_nothing_can_be_filled_in_before_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, vocab: LetterVocab, prompt: str | tuple[int, ...]
) -> None:
    if not isinstance(vocab, FillingVocab):
        monkeypatch.setattr(LetterVocab, "fill_in_middle", None)
    with pytest.raises(InvalidRequest) as caught:
        Preparer(vocab, template=None, n_ctx=64).write(CompleteTask(prompt=prompt, suffix="c"))
    assert caught.value.param == "suffix"


def test_replies_that_begin_with_their_prompts_are_told_these(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Preparer(LetterVocab(), template=None, n_ctx=64)
    task = CompleteTask(prompt="hé", more_prompts=((0, 104, 105),), echo=True)
    assert own.echo(task) == ("hé", "<s>hi")
    assert own.echo(CompleteTask(prompt="hé")) == own.echo(HELLO) == ()
    monkeypatch.setattr("neuron_lib.engine.prepare._MOST_BYTES_TOLD", 7)
    with pytest.raises(InvalidRequest) as caught:
        own.write(task)
    assert caught.value.param == "prompt"


@pytest.mark.parametrize("prompt", ["", (), (3,), (-1,)])
def test_a_prompt_of_nothing_or_of_tokens_that_there_are_not_is_refused_by_name(prompt: str | tuple[int, ...]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        preparer(None).prepare(CompleteTask(prompt=prompt))
    assert caught.value.param == "prompt"


def test_each_input_becomes_a_sequence_and_all_of_them_take_turns_on_one_seat() -> None:
    own = Preparer(WordVocab(), template=None, n_ctx=64, vector_tokens=5)
    task = EmbedTask(inputs=("one two", (2, 1), "three"))
    embed = msgspec.structs.replace(submit(class_=RequestClass(adapter="pirate")), task=task)
    assert own.limit(embed) == 5
    request = own.request(embed, [own.read(prompt, limit=own.limit(embed)) for prompt in own.write(task)])
    assert request.seats == 1
    assert [(s.choice, s.prompt, s.adapter) for s in request.sequences] == [
        (0, [0, 1, 1], "pirate"),
        (1, [2, 1], "pirate"),
        (2, [0, 1], "pirate"),
    ]


@pytest.mark.parametrize(
    ("inputs", "param"),
    [((), "input"), (("",), "input"), (("one", ""), "input[1]"), (("one", ()), "input[1]"), (("a", (7,)), "input[1]")],
)
def test_no_input_and_an_input_of_nothing_are_refused_by_name(
    inputs: tuple[str | tuple[int, ...], ...], param: str
) -> None:
    own = Preparer(WordVocab(), template=None, n_ctx=64, vector_tokens=5)
    with pytest.raises(InvalidRequest) as caught:
        own.write(EmbedTask(inputs=inputs))
    assert caught.value.param == param


def test_the_input_that_is_too_long_is_named_with_the_numbers() -> None:
    own = Preparer(WordVocab(), template=None, n_ctx=64, vector_tokens=5)
    fits, too_long = own.write(EmbedTask(inputs=("a b c d", "a b c d e")))
    assert len(own.read(fits, limit=5).tokens) == 5
    with pytest.raises(PromptTooLong, match=r"maximum context length is 5 tokens, but input\[1\] has 6 ") as caught:
        own.read(too_long, limit=5)
    assert caught.value.param == "input[1]"


def test_vectors_are_refused_by_name() -> None:
    for other in (preparer(None), ranking_preparer()):
        with pytest.raises(UnsupportedCapability) as caught:
            other.prepare(EmbedTask(inputs=("one",)))
        assert caught.value.code == "embeddings_unsupported"


def ranking_preparer() -> Preparer:
    pairs = PairWriter(template=None, separator=" </s> ", controls=None)
    return Preparer(WordVocab(), template=None, n_ctx=64, vector_tokens=8, pairs=pairs)


RANK = RerankTask(query="which one", documents=("the first", "this", "or that"))


def test_each_document_is_read_behind_the_query_and_becomes_a_sequence() -> None:
    own = ranking_preparer()
    rank = msgspec.structs.replace(submit(), task=RANK)
    assert own.limit(rank) == 8
    request = own.request(rank, [own.read(prompt, limit=own.limit(rank)) for prompt in own.write(RANK)])
    assert request.seats == 1
    assert [(s.choice, s.prompt) for s in request.sequences] == [
        (0, [0, 1, 1, 2, 1, 1]),
        (1, [0, 1, 1, 2, 1]),
        (2, [0, 1, 1, 2, 1, 1]),
    ]


def test_the_document_that_is_too_long_is_named_with_the_numbers() -> None:
    own = ranking_preparer()
    _, too_long = own.write(RerankTask(query="which one", documents=("this", "this one is too long")))
    with pytest.raises(PromptTooLong, match=r"maximum context length is 8 tokens, but documents\[1\] has 9 "):
        own.read(too_long, limit=8)


def test_scores_are_refused_by_name() -> None:
    with pytest.raises(UnsupportedCapability) as caught:
        preparer(None).write(RANK)
    assert caught.value.code == "rerank_unsupported"
    with pytest.raises(InvalidRequest) as refused:
        ranking_preparer().write(RerankTask(query="which?", documents=()))
    assert refused.value.param == "documents"


def tokens_of(task: TokenizeTask) -> Tokens:
    own = Preparer(LetterVocab(), template="{{ bos_token }}{{ messages[0].content }}", n_ctx=8)
    (prompt,) = own.write(task)
    return own.tokens_of(7, task, prompt)


@pytest.mark.parametrize(
    ("prompt", "flags", "tokens"),
    [
        ("ab", {}, (0, 97, 98)),
        ("<s>ab", {}, (0, 97, 98)),
        ("ab", {"add_special": False}, (97, 98)),
        ("<s>a", {"add_special": False}, (0, 97)),
        ("<s>", {"add_special": False, "parse_special": False}, (60, 115, 62)),
        ("<s>", {"parse_special": False}, (0, 60, 115, 62)),
        ("", {"add_special": False}, ()),
        ("", {}, (0,)),
        ("longer than the context", {"add_special": False}, tuple(b"longer than the context")),
    ],
)
def test_the_tokens_of_a_text_are_those_of_a_prompt_unless_the_task_says_otherwise(
    prompt: str, flags: dict[str, bool], tokens: tuple[int, ...]
) -> None:
    assert tokens_of(TokenizeTask(prompt=prompt, **flags)) == Tokens(request=7, tokens=tokens)


def test_the_tokens_of_a_chat_are_those_of_the_prompt_that_the_template_writes() -> None:
    answer = tokens_of(TokenizeTask(prompt=HELLO, wants_text=True, wants_pieces=True))
    pieces = (b"<s>", b"h", b"e", b"l", b"l", b"o")
    assert answer == Tokens(request=7, tokens=(0, *b"hello"), text="<s>hello", pieces=pieces)
    assert tokens_of(TokenizeTask(prompt=HELLO)) == Tokens(request=7, tokens=(0, *b"hello"))


def test_what_a_message_spells_is_told_as_it_is_read() -> None:
    task = TokenizeTask(prompt=ChatTask(messages=({"role": "user", "content": "<s>"},)))
    controls = {0: ControlToken("<s>", strips_left=False, strips_right=False, is_unknown=False)}
    own = Preparer(LetterVocab(), template="{{ messages[0].content }}", controls=controls, n_ctx=8)
    (prompt,) = own.write(task)
    (written,) = own.write(task.prompt) if isinstance(task.prompt, ChatTask) else ()
    assert list(own.tokens_of(7, task, prompt).tokens) == own.read(written, limit=8).tokens == [0, 60, 115, 62]


@pytest.mark.parametrize("pieces", [False, True])
def test_a_text_of_which_more_would_be_told_than_a_frame_holds_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, *, pieces: bool
) -> None:
    fits = TokenizeTask(prompt="x" * 8, add_special=False, wants_pieces=pieces)
    monkeypatch.setattr("neuron_lib.engine.prepare._MOST_BYTES_TOLD", 8)
    assert len(tokens_of(fits).tokens) == 8
    for name, most in (("_MOST_BYTES_TOLD", 7), ("_MOST_PIECES_TOLD" if pieces else "_MOST_TOKENS_TOLD", 7)):
        with monkeypatch.context() as patch:
            patch.setattr(f"neuron_lib.engine.prepare.{name}", most)
            with pytest.raises(InvalidRequest) as caught:
                tokens_of(fits)
        assert caught.value.param == "prompt"


def test_tokens_become_the_text_that_they_spell() -> None:
    own = Preparer(LetterVocab(), template=None, n_ctx=8)
    task = DetokenizeTask(tokens=(0, *"hé".encode(), 0xC3))
    assert own.write(task) == ()
    assert own.text_of(7, task) == Text(request=7, text="<s>hé\ufffd", token_count=5)
    assert own.text_of(7, DetokenizeTask(tokens=())) == Text(request=7, text="", token_count=0)


def test_tokens_that_there_are_not_or_that_are_too_long_a_text_are_refused_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = Preparer(LetterVocab(), template=None, n_ctx=8)
    with pytest.raises(InvalidRequest, match="there is no token 300") as caught:
        own.text_of(7, DetokenizeTask(tokens=(1, 300)))
    assert caught.value.param == "tokens"
    monkeypatch.setattr("neuron_lib.engine.prepare._MOST_BYTES_TOLD", 7)
    with pytest.raises(InvalidRequest, match="longer than 7 bytes") as caught:
        own.text_of(7, DetokenizeTask(tokens=(97,) * 8))
    assert caught.value.param == "tokens"


def test_a_template_that_writes_nothing_is_the_request_s_fault() -> None:
    with pytest.raises(InvalidRequest) as caught:
        preparer("{{ '' }}", vocab=SilentVocab()).prepare(HELLO)
    assert caught.value.param == "messages"


def submit(*, class_: RequestClass | None = None, most: int = 64, **fields: Any) -> Submit:
    return Submit(
        request=7,
        task=ChatTask(**fields),
        sampling=Sampling(temperature=1, seed=40),
        limits=Limits(prompt_tokens=most, reply_tokens=9),
        class_=class_ or RequestClass(),
    )


def test_each_choice_is_a_sequence_with_a_seed_and_a_grammar_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[int, Any, int | None]] = []

    def chain(sampling: Sampling, *, constraint: Any, top_logprobs: int | None, **_fields: Any) -> None:
        made.append((sampling.seed, constraint, top_logprobs))

    monkeypatch.setattr("neuron_lib.engine.prepare.SamplerChain", chain)
    own, constraint = preparer(None), OneOfMany()
    prompt = replace(own.prepare(HELLO), begin=cast("Callable[[], Constraint]", constraint.copy))
    class_ = RequestClass(cache_key="me", adapter="pirate")
    request = own.request(submit(class_=class_, choices=2, top_logprobs=3, stop=("x",)), [prompt], arrived_s=1.5)
    assert (request.number, request.seats, request.class_, request.arrived_s) == (7, 2, class_, 1.5)
    first, second = request.sequences
    assert [(s.request, s.choice, s.max_tokens, s.stop, s.sharing) for s in (first, second)] == [
        (7, 0, 9, ("x",), ("me", "pirate")),
        (7, 1, 9, ("x",), ("me", "pirate")),
    ]
    assert first.prompt == second.prompt == prompt.tokens
    assert [(seed, top) for seed, _, top in made] == [(40, 3), (41, 3)]
    assert made[0][1] is not made[1][1]
    assert all(copy.source is constraint for _, copy, _ in made)


@pytest.mark.parametrize(("needs_checkpoints", "lengths"), [(False, ()), (True, (3,))])
def test_only_a_memory_that_cannot_be_cut_is_kept_at_the_ends_of_messages(
    needs_checkpoints: bool,  # noqa: FBT001 - a parameter
    lengths: tuple[int, ...],
) -> None:
    own = preparer("{{ messages[0].content }} </s> go on", needs_checkpoints=needs_checkpoints)
    (sequence,) = own.request(submit(), [own.prepare(HELLO)]).sequences
    assert sequence.checkpoint_at == lengths


@pytest.mark.parametrize(
    ("prompt", "is_shared", "lengths"),
    [
        ([1, 2, 1, 2, 1, 2, 1], False, (2, 6)),
        ([1, 1, 2, 1], False, (3,)),
        ([1, 2, 1, 1, 2], False, (2,)),  # all of it is no beginning: a token is left to compute
        ([1, 2], False, ()),
        ([1, 1, 1], False, (2,)),  # no message ends, so the whole prompt may be repeated
        ([1], False, ()),
        ([1, 2, 1, 2, 1, 1], True, (2, 5)),
        ([1, 2, 1], True, (2,)),
        ([1], True, ()),
    ],
)
def test_checkpoints_are_where_other_prompts_may_go_another_way(
    prompt: list[int],
    is_shared: bool,  # noqa: FBT001 - a parameter
    lengths: tuple[int, ...],
) -> None:
    assert checkpoints_of(prompt, frozenset({2}), is_shared=is_shared) == lengths


def test_parts_are_one_text_and_what_has_none_is_left_out() -> None:
    parts = [
        {"type": "thinking", "thinking": "hm"},
        {"type": "text", "text": "hel"},
        {"type": "document", "source": {"type": "text", "data": "x"}},
        {"type": "text", "text": "lo"},
    ]
    assert preparer(None).write(ChatTask(messages=({"role": "user", "content": parts},)))[0].text == CHATML


def test_a_last_message_of_the_assistant_is_continued_where_its_text_ends() -> None:
    chat = ChatTask(messages=({"role": "user", "content": "hello"}, {"role": "assistant", "content": "Good d"}))
    (prompt,) = preparer(None).write(chat)
    assert prompt.text == "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\nGood d"
    (fresh,) = preparer(None).write(msgspec.structs.replace(chat, continue_final_message=False))
    assert fresh.text.endswith("Good d<|im_end|>\n<|im_start|>assistant\n")


def test_a_message_is_continued_whatever_the_request_tells_the_template() -> None:
    messages = ({"role": "user", "content": "hello"}, {"role": "assistant", "content": "Good d"})
    chat = ChatTask(messages=messages, template_kwargs={"add_generation_prompt": True}, continue_final_message=True)
    assert preparer(None).write(chat)[0].text.endswith("assistant\nGood d")


def test_a_system_text_that_the_template_does_not_take_is_not_put_behind_the_message_that_is_continued() -> None:
    template = """{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}
[{{ m.role }}:{{ m.content }}]{% endfor %}"""
    chat = ChatTask(
        messages=(
            {"role": "user", "content": "hello"},
            {"role": "system", "content": "Be kind."},
            {"role": "assistant", "content": "Good d"},
        )
    )
    text = preparer(template).write(chat)[0].text
    assert text.endswith("[assistant:Good d")
    assert "Be kind." in text


def test_a_call_cannot_be_required_of_a_model_whose_format_is_not_known() -> None:
    own = preparer("{{ messages[0].content }}{{ tools }}")
    task = msgspec.structs.replace(WITH_TOOLS, tool_choice=ToolChoice("required"))
    with pytest.raises(InvalidRequest) as caught:
        own.write(task)
    assert caught.value.param == "tool_choice"
    with pytest.raises(InvalidRequest, match="there are no tools"):
        own.write(msgspec.structs.replace(task, tools=()))


def test_reasoning_that_the_template_does_not_show_is_continued_only_if_somebody_asks_for_it() -> None:
    thought = {"role": "assistant", "content": None, "reasoning_content": "I th"}
    chat = ChatTask(messages=({"role": "user", "content": "hello"}, thought))
    (prompt,) = preparer(None).write(chat)
    assert (prompt.text, prompt.in_reasoning) == (CHATML, False)
    with pytest.raises(InvalidRequest, match="does not show the reasoning"):
        preparer(None).write(msgspec.structs.replace(chat, continue_final_message=True))
