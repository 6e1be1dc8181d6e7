"""Tokenizes hostile texts in a process that may die of it: `python -m tests.fakes.tokenizer_child GGUF NAME...`.

For each pre-tokenizer name it prints `NAME loaded`, then `NAME KIND N TOKENS` after each text, or a line that says why
the model does not load. What is missing at the end is what it died of.
"""

import os
import sys
import threading
from collections.abc import Mapping
from typing import Any, Final

from neuron_lib.llama.bindings import init_backend, lib, route_logs
from neuron_lib.llama.vocab import Vocab

__all__ = ("KINDS", "PRE_TOKENIZERS", "text_of")

KINDS: Final[Mapping[str, str]] = {
    "letters": "a",
    "capitals": "A",
    "mixed case": "aA",
    "accented letters": "é",
    "mathematical letters": "𝐀",
    "hangul": "한",
    "han": "中",
    "thai": "ที่",
    "digits": "0",
    "arabic digits": "٣",
    "spaces": " ",
    "line breaks": "\n",
    "tabs": "\t",
    "wide spaces": "\u3000",
    "dashes": "-",
    "quotes": "'",
    "emoji": "😀",
    "joined emoji": "👨\u200d👩",
    "combining marks": "\u0301",
    "letters with marks": "e\u0301",
    "invisible": "\u200b",
    "control": "\x01",
    "separators": "\x1c",
    "unassigned": "\U000e1000",
    "slashes and breaks": "\n/",
    "letters and spaces": "a ",
    "minified JSON": '{"a":1,"b":"xY_z"},',
    "base64": "aB3+xZ9",
    "special tokens": "<|im_end|>",
    "prose": "The sea, at 9.30: it's calm.\n",
}
"""What a text is made of, by name."""

PRE_TOKENIZERS: Final = tuple(
    """
    a.x-4.0 afmoe bailingmoe bailingmoe2 bloom chameleon chatglm-bpe codeshell cohere2moe command-r dbrx
    deepseek-coder deepseek-llm deepseek-r1-qwen deepseek-v3 default exaone exaone-moe exaone4 f2llmv2 falcon
    falcon-h1 falcon3 gemma4 gigachat glm4 glm5 gpt-2 gpt-4o gpt3-finnish granite-docling granite-embed-multi-311m
    granite-embed-multi-97m grok-2 hunyuan hunyuan-dense hy_v4 jais jais-2 jina-de jina-es jina-v1-en jina-v2-code
    jina-v2-de jina-v2-es jina-v5-nano joyai-llm kanana2 kimi-k2 kormo laguna lfm2 llada-moe llama-bpe llama-v3
    llama3 llama4 megrez mellum mellum2 midm-2.0 minerva-7b minicpm5 minimax-m2 modern-bert mpt olmo phi-2 pixtral
    poro-chat qwen2 qwen35 refact roberta-bpe sarvam-moe seed-coder smaug-bpe smollm solar-open spark2_5 stablelm2
    starcoder superbpe talkie tekken tiny_aya trillion ufakzeka viking whitespace youtu
    """.split()  # noqa: SIM905 - a list would take 90 lines
)
"""Every name that libllama knows for `tokenizer.ggml.pre`."""


def text_of(kind: str, length: int) -> str:
    """`length` characters of a kind, behind the beginnings that some expressions want."""
    unit = KINDS[kind]
    return "!<sentinel:" + (unit * (length // len(unit) + 1))[:length]


def load(path: str, pre_tokenizer: str) -> Any:
    """The vocabulary of the file under another pre-tokenizer; None if libllama does not know that."""
    params = lib.llama_model_default_params()
    params.vocab_only = True
    overrides = (lib.llama_model_kv_override * 2)()  # the last one is empty
    overrides[0].tag = lib.LLAMA_KV_OVERRIDE_TYPE_STR
    overrides[0].key = b"tokenizer.ggml.pre"
    overrides[0].value.val_str = pre_tokenizer.encode()
    params.kv_overrides = overrides
    model = lib.llama_model_load_from_file(os.fsencode(path), params)
    return model and lib.llama_model_get_vocab(model)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _main(path: str, length: int, names: list[str]) -> None:
    init_backend()
    said: list[str] = []
    route_logs(lambda _level, text: said.append(text))
    for name in names:
        pointer = load(path, name)
        if not pointer:
            _say(f"{name}: {''.join(said)[-300:]}")
            continue
        _say(f"{name} loaded")
        vocab = Vocab(pointer, pre_tokenizer=name)
        for kind in KINDS:
            tokens = vocab.tokenize(text_of(kind, length), add_special=True)
            _say(f"{name} {kind} {len(tokens)}")


if __name__ == "__main__":
    threading.stack_size(int(os.environ["STACK_BYTES"]))
    worker = threading.Thread(target=_main, args=(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
    worker.start()
    worker.join()
