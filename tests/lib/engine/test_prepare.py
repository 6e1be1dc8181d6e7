import logging
import signal

import pytest

from neuron_lib.engine.prepare import Preparer
from neuron_lib.engine.protocol import Prepare
from neuron_lib.errors import TemplateFailed
from neuron_lib.llama.vocab import Vocab

HELLO = Prepare(request=1, messages=({"role": "user", "content": "hello"},))
CHATML = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
WITH_TOOLS = Prepare(request=1, messages=HELLO.messages, tools=({"type": "function", "function": {"name": "f"}},))


class WordVocab(Vocab):
    """Every word is a token; the beginning is `<s>` and is added on request."""

    def __init__(self, bos: str = "<s>") -> None:
        self._bos = bos

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool = True) -> list[int]:
        assert parse_special
        return [0] * (len(text.split()) + add_special)

    @property
    def bos(self) -> str:
        return self._bos

    @property
    def eos(self) -> str:
        return "</s>"


def preparer(template: str | None) -> Preparer:
    return Preparer(WordVocab(), template=template, n_ctx=64)


def test_the_model_s_own_template_is_used() -> None:
    own = preparer("{{ bos_token }}[{{ messages[0].content }}]{{ eos_token }}")
    assert own.render(HELLO) == "<s>[hello]</s>"


def test_arguments_of_the_request_reach_the_template() -> None:
    own = preparer("{{ 'think' if enable_thinking else 'do not' }}")
    chat = Prepare(request=1, messages=HELLO.messages, template_kwargs={"enable_thinking": True})
    assert own.render(chat) == "think"


@pytest.mark.parametrize("template", [None, "{% for", "{{ raise_exception('no') }}", "{{ messages[7].content.x }}"])
def test_without_a_template_that_works_chatml_is_used_and_it_is_said(
    template: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert preparer(template).render(HELLO) == CHATML
    assert "ChatML is used" in caplog.text


def test_a_prompt_is_never_made_without_its_tools() -> None:
    with pytest.raises(TemplateFailed):
        preparer("{{ raise_exception('no tools here') }}").render(WITH_TOOLS)


def test_a_template_that_takes_too_long_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neuron_lib.engine.prepare._RENDER_LIMIT_S", 0.05)
    endless = preparer("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}")
    with pytest.raises(TemplateFailed):
        endless.render(WITH_TOOLS)
    assert endless.render(HELLO) == CHATML
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


@pytest.mark.parametrize(("prompt", "tokens"), [("<s> one two", 3), ("one two", 3), ("", 1)])
def test_a_prompt_begins_with_one_bos(prompt: str, tokens: int) -> None:
    assert len(preparer(None).tokenize(prompt)) == tokens


def test_a_model_without_bos_leaves_the_beginning_to_the_tokenizer() -> None:
    assert len(Preparer(WordVocab(bos=""), template=None, n_ctx=64).tokenize("one")) == 2


def test_of_a_prompt_that_is_far_too_long_only_the_beginning_is_tokenized(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    class CountingVocab(WordVocab):
        def tokenize(self, text: str, *, add_special: bool, parse_special: bool = True) -> list[int]:
            read.append(len(text))
            return super().tokenize(text, add_special=add_special, parse_special=parse_special)

    monkeypatch.setattr("neuron_lib.engine.prepare._FIRST_LOOK_CHARS", 100)
    own = Preparer(CountingVocab(), template=None, n_ctx=64)
    assert own.count_beyond_use("a " * 50_000) == 50_000
    assert read == [100, 200, 400]


@pytest.mark.parametrize("prompt", ["a " * 32, "a " * 64, "a" * 1_000])
def test_a_prompt_that_may_fit_is_never_judged_by_its_beginning(monkeypatch: pytest.MonkeyPatch, prompt: str) -> None:
    monkeypatch.setattr("neuron_lib.engine.prepare._FIRST_LOOK_CHARS", 4)
    assert preparer(None).count_beyond_use(prompt) is None
