"""What offering tools costs a chat that calls none: tokens per second with tools, divided by those without, in turns.

    python -m benchmarks.tools [--model FILE] [--rounds N] [--quick]

Both prompts have the same length: the chat without tools has their description in its system message. Prints one JSON
line for each number of streams, with the median of the ratios of all rounds. A round in which the streams never
overlapped has no ratio.
"""

import argparse
import json
import statistics
from pathlib import Path

from benchmarks.replies import numbers
from benchmarks.servers import Server, drive, running
from benchmarks.subject import circumstances, cpu_count, model_path
from benchmarks.traffic import FULL, QUICK, Conversation, Load, traffics

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"Tells the {name} of a city.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
    for name in ("weather", "population", "time", "mayor")
]


def with_notes(conversation: Conversation, *, words: int = 0) -> Conversation:
    """The conversation behind a system message with the tools and so many more words of a token each."""
    return ({"role": "system", "content": json.dumps(TOOLS) + " note" * words}, *conversation)


def missing_words(server: Server, conversation: Conversation) -> int:
    """How many tokens the prompt with tools is longer than the one with notes."""
    lengths = []
    for chat, more in ((conversation, {"tools": TOOLS}), (with_notes(conversation), {})):
        [reply], _ = drive(server, (chat,), max_tokens=1, streams=1, more=more)
        lengths.append(reply.prompt_tokens or 0)
    return max(0, lengths[0] - lengths[1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=model_path(), help="a GGUF file (default: the demo model)")
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--rounds", type=int, metavar="N", help="default: 7, with --quick 1")
    options = parser.parse_args()
    rounds = options.rounds or (1 if options.quick else 7)
    ratios: dict[int, list[float]] = {}
    with running("neuron", gguf=options.model, threads=cpu_count()) as server:
        words = missing_words(server, ({"role": "user", "content": "Hi"},))
        for number in range(1, rounds + 1):
            for load in traffics(number, QUICK if options.quick else FULL):
                if not isinstance(load, Load) or not load.name.startswith("chat-"):
                    continue
                rates = {}
                kinds = ("tools", "plain") if number % 2 else ("plain", "tools")
                for kind in kinds:
                    chats = (
                        load.conversations
                        if kind == "tools"
                        else tuple(with_notes(chat, words=words) for chat in load.conversations)
                    )
                    more = {"tools": TOOLS} if kind == "tools" else {}
                    replies, _ = drive(server, chats, max_tokens=load.max_tokens, streams=load.streams, more=more)
                    rates[kind] = numbers(replies, streams=load.streams)["decode_tok_per_s"]
                found = ratios.setdefault(load.streams, [])
                if rates["tools"] and rates["plain"]:
                    found.append(rates["tools"] / rates["plain"])
    for streams, found in ratios.items():
        line = {
            "bench": "tools",
            "streams": streams,
            "decode_ratio": round(statistics.median(found), 3) if found else None,
            "least": round(min(found), 3) if found else None,
            "most": round(max(found), 3) if found else None,
            "rounds": len(found),
        }
        print(json.dumps(line | circumstances(cpu_count(), options.model.name)))


if __name__ == "__main__":
    main()
