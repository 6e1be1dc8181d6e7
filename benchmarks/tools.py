"""What offering tools costs a chat that calls none: tokens per second with tools, divided by those without, in turns.

    python -m benchmarks.tools

Both prompts have the same length: the chat without tools has their description in its system message. Prints one JSON
line for each number of streams, with the median of the ratios of all rounds.
"""

import argparse
import json
import statistics

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
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--rounds", type=int, metavar="N", help="default: 7, with --quick 1")
    options = parser.parse_args()
    rounds = options.rounds or (1 if options.quick else 7)
    ratios: dict[int, list[float]] = {}
    with running("neuron", gguf=model_path(), threads=cpu_count()) as server:
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
                if rates["tools"] and rates["plain"]:
                    ratios.setdefault(load.streams, []).append(rates["tools"] / rates["plain"])
    for streams, found in ratios.items():
        line = {
            "bench": "tools",
            "streams": streams,
            "decode_ratio": round(statistics.median(found), 3),
            "least": round(min(found), 3),
            "most": round(max(found), 3),
            "rounds": len(found),
        }
        print(json.dumps(line | circumstances(cpu_count())))


if __name__ == "__main__":
    main()
