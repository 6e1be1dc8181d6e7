"""The lines of `side_by_side.py` as a table and a plot: `python -m benchmarks.report RESULTS.jsonl` writes both again.

Numbers are medians over rounds. A ratio is neuron's number divided by the other's in the same round. Tables have the
median of these ratios, and their range.
"""

import json
import statistics
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, TypeAlias

__all__ = ("markdown", "median", "ratios", "write")

Line: TypeAlias = dict[str, Any]

OURS: Final = "neuron"
COLUMNS: Final = {
    "tok_per_s": "tok/s",
    "decode_tok_per_s": "decode tok/s",
    "first_token_p50_ms": "first token p50, ms",
    "first_token_max_ms": "slowest, ms",
    "cold_first_token_p50_ms": "cold p50, ms",
    "warm_to_cold": "warm ÷ cold",
    "gap_p50_ms": "gap p50, ms",
    "gap_p99_ms": "p99, ms",
    "gap_max_ms": "max, ms",
    "cpu_s": "server CPU, s",
    "memory_mb": "memory, MiB",
}
RATIOS: Final = (
    "tok_per_s",
    "decode_tok_per_s",
    "first_token_p50_ms",
    "first_token_max_ms",
    "gap_p50_ms",
    "gap_p99_ms",
    "memory_mb",
)


def write(lines: Sequence[Line], results: Path) -> None:
    """Write the table beside `results`, and the plot if matplotlib is installed. Print the table."""
    text = markdown(lines)
    results.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)
    if find_spec("matplotlib"):
        plot(lines, results.with_suffix(".png"))


def markdown(lines: Sequence[Line]) -> str:
    """A table of numbers and a table of ratios."""
    around = lines[0]
    rounds = len({line["round"] for line in lines})
    about = (
        f"{around['date']}, {around['cpu']}, {around['cpus']} CPUs, {around['threads']} threads, Linux "
        f"{around['kernel']}, Python {around['python']}, llama-cpp-python {around['llama_cpp_python']}, llama.cpp "
        f"{around.get('llama_cpp', 'inside it')}, {around['model']}, "
        f"{'sampled' if around.get('sampled') else 'greedy'}; medians of {rounds} rounds."
    )
    shown = {key: title for key, title in COLUMNS.items() if any(line.get(key) is not None for line in lines)}
    numbers = [
        [traffic, subject, *(_number(median(lines, traffic, subject, key)) for key in shown)]
        for traffic in _names(lines, "traffic")
        for subject in _names(lines, "subject")
        if any(line["traffic"] == traffic and line["subject"] == subject for line in lines)
    ]
    text = f"{about}\n\n" + _table(["traffic", "subject", *shown.values()], numbers)
    compared = [
        [traffic, rival, *(_ratio(ratios(lines, traffic, rival, key)) for key in RATIOS)]
        for traffic in _names(lines, "traffic")
        for rival in _names(lines, "subject")
        if rival != OURS and any(ratios(lines, traffic, rival, key) for key in RATIOS)
    ]
    if compared:
        text += f"\n{OURS} ÷ the other, in the same round: median (least – most).\n\n"
        text += _table(["traffic", "other", *(COLUMNS[key] for key in RATIOS)], compared)
    return text


def median(lines: Iterable[Line], traffic: str, subject: str, key: str) -> float | None:
    """The median over all rounds. None if the subject has no such number."""
    values = _by_round(lines, traffic, subject, key).values()
    return statistics.median(values) if values else None


def ratios(lines: Sequence[Line], traffic: str, rival: str, key: str) -> list[float]:
    """Our number divided by the rival's, for each round with both."""
    ours, theirs = _by_round(lines, traffic, OURS, key), _by_round(lines, traffic, rival, key)
    return [ours[number] / theirs[number] for number in sorted(ours.keys() & theirs.keys()) if theirs[number]]


def _by_round(lines: Iterable[Line], traffic: str, subject: str, key: str) -> dict[int, float]:
    return {
        line["round"]: line[key]
        for line in lines
        if line["traffic"] == traffic and line["subject"] == subject and line.get(key) is not None
    }


def _names(lines: Iterable[Line], key: str) -> list[str]:
    """Each value once, in the order of the first round."""
    return list(dict.fromkeys(line[key] for line in lines))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"


def _ratio(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} – {max(values):.2f})" if values else "–"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = (head, ["---", "---", *("---:" for _ in head[2:])], *rows)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def plot(lines: Sequence[Line], path: Path) -> None:
    """Four panels of bars: speed of short chats, speed of long prompts, slowest first token, longest waits between
    texts.
    """
    import matplotlib as mpl  # noqa: PLC0415 - only the bench extra has it

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - as above, and after the choice of what draws

    short = [name for name in _names(lines, "traffic") if name.startswith("chat-")]
    long = [name for name in _names(lines, "traffic") if name in {"shared-prompt", "distinct-prompts"}]
    panels = (
        ("Short chats: tokens per second", short, "tok_per_s"),
        ("600-word prompts: tokens per second", long, "tok_per_s"),
        ("600-word prompts: slowest first token, s", long, "first_token_max_ms"),
        ("600-word prompts: p99 gap between tokens, s", long, "gap_p99_ms"),
    )
    figure, grid = plt.subplots(2, 2, figsize=(11, 7), layout="constrained")
    for axes, (title, traffics, key) in zip(grid.flat, panels, strict=True):
        axes.set_title(title, fontsize=11, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(y=0.1)  # room for the numbers above the bars
        axes.set_xticks(range(len(traffics)), [_caption(name) for name in traffics])
        for subject, shift, width in _bars(_names(lines, "subject")):
            values = [median(lines, traffic, subject, key) or 0 for traffic in traffics]
            heights = [value / 1000 for value in values] if key.endswith("_ms") else values
            places = [x + shift for x in range(len(traffics))]
            bars = axes.bar(places, heights, width, label=subject, color=_COLOURS.get(subject))
            axes.bar_label(bars, [f"{height:.3g}" if height else "" for height in heights], fontsize=8, padding=1)
    figure.legend(*grid.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    around = lines[0]
    figure.suptitle(
        f"{around['model']}, {around['threads']} threads, {around['cpu']}, {around['date']}", fontsize=9, color="0.35"
    )
    figure.savefig(path, dpi=130)
    plt.close(figure)


_COLOURS: Final = {
    OURS: "#c2410c",
    "llama-server": "#1d4ed8",
    "llama-cpp-python": "#0f766e",
    "llama-batched-bench": "#a3a3a3",
}


def _bars(subjects: Sequence[str]) -> Iterator[tuple[str, float, float]]:
    """Each subject with the shift and the width of its bars."""
    width = 0.84 / len(subjects)
    for n, subject in enumerate(subjects):
        yield subject, (n - (len(subjects) - 1) / 2) * width, width * 0.94


def _caption(traffic: str) -> str:
    kind, _, count = traffic.partition("-")
    return f"{count} stream{'s' if count != '1' else ''}" if kind == "chat" else traffic.replace("-prompt", "\nprompt")


if __name__ == "__main__":
    results = Path(sys.argv[1])
    write([json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()], results)
