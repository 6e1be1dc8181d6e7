"""The lines of the studies as tables and a picture.

python -m benchmarks.fleet_sim.report LINES.jsonl [--picture FILE]
"""

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, TypeAlias

__all__ = ("markdown", "picture", "study_table", "write")

Line: TypeAlias = Mapping[str, Any]

_COLUMNS: Final = {
    "sent_per_s": "sent/s",
    "ended_per_s": "ended/s",
    "tok_per_s": "tok/s",
    "begin_p50_ms": "wait p50, ms",
    "begin_p99_ms": "p99",
    "first_token_p50_ms": "first token p50, ms",
    "first_token_p99_ms": "p99 ",
    "gap_p50_ms": "gap p50, ms",
    "gap_p99_ms": "p99  ",
    "refused": "refused",
    "failed": "failed",
    "attempts_each": "attempts",
    "cached": "cached",
    "busy": "busy",
    "busy_most": "busiest",
    "most_to_mean": "most ÷ mean",
}
"""What each simulation gives, in this order. What a study varied comes before it."""
_SILENT: Final = {
    "bench", "study", "seed", "took_s", "requests", "refused_by", "failed_by", "undecided", "steps", "busy_least",
}  # fmt: skip
_SHARES: Final = {"refused", "failed", "cached", "busy", "busy_most"}


def write(lines: Sequence[Line], out: Path) -> None:
    """Write the lines, the tables, and the picture if matplotlib is installed."""
    out.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    out.with_suffix(".md").write_text(markdown(lines), encoding="utf-8")
    if find_spec("matplotlib"):
        picture(lines, out.with_suffix(".png"))


def markdown(lines: Sequence[Line]) -> str:
    """All tables of these lines, each below the name of its study."""
    text = "# Simulated fleets\n\n`docs/explanation/scale.md` says what was simulated.\n"
    for study in dict.fromkeys(line["study"] for line in lines):
        text += f"\n## {study}\n\n" + study_table([line for line in lines if line["study"] == study])
    return text


def study_table(rows: Sequence[Line]) -> str:
    """The lines of one study as a table: what was varied, and what came of it. What is the same in all is left out."""
    varied = [key for key in rows[0] if key not in _SILENT and key not in _COLUMNS]
    cells = {key: [_cell(key, row.get(key)) for row in rows] for key in _COLUMNS if key in rows[0]}
    shown = [key for key, column in cells.items() if len(set(column)) > 1]
    if cells.get("busy_most") == cells.get("busy"):
        shown = [key for key in shown if key != "busy_most"]  # there is one host
    if cells.get("failed") == cells.get("refused"):
        shown = [key for key in shown if key != "failed"]  # nobody tries again
    head = [*varied, *(_COLUMNS[key].strip() for key in shown)]
    body = [
        [*(str(row.get(key, "")) for key in varied), *(cells[key][place] for key in shown)]
        for place, row in enumerate(rows)
    ]
    return _table(head, body)


def _cell(key: str, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value * 100:.1f} %" if key in _SHARES else f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = (head, ["---", *("---:" for _ in head[1:])], *rows)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def picture(lines: Sequence[Line], path: Path) -> None:
    """Four panels: one host by its load, by its seats; a fleet by its rule, and by the age of its numbers."""
    import matplotlib as mpl  # noqa: PLC0415 - only the bench extra has it

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - as above, and after the choice of what draws

    figure, grid = plt.subplots(2, 2, figsize=(10, 7), layout="constrained")
    panels = (
        ("One host: slowest first token of 99 %, s", "share of what it can do", "saturation", "machine", "offered"),
        ("One host: requests per second at most", "max_in_flight", "seats", "machine", "max_in_flight"),
        ("Fleet at 60 %: requests that failed, %", "hosts", "policies", "policy", "hosts"),
        ("10 hosts at 60 %: requests that failed, %", "seconds between two polls", "staleness", "policy", "pause_s"),
    )
    for axes, (title, label, study, group, along) in zip(grid.flat, panels, strict=True):
        axes.set_title(title, fontsize=11, loc="left")
        axes.set_xlabel(label, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        rows = [line for line in lines if line["study"] == study]
        for place, name in enumerate(dict.fromkeys(row[group] for row in rows)):
            own = [row for row in rows if row[group] == name]
            heights = [_height(study, row) for row in own]
            colour, mark = _COLOURS[place % len(_COLOURS)], "osD^vP"[place % 6]
            axes.plot([row[along] for row in own], heights, marker=mark, markersize=4, color=colour, label=name)
        if study in {"seats", "policies", "staleness"}:
            axes.set_xscale("log", base=2 if study == "seats" else 10)
        if study == "saturation":
            axes.set_yscale("log")
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=90)
    plt.close(figure)


_COLOURS: Final = ("#c2410c", "#1d4ed8", "#0f766e", "#a16207", "#7e22ce", "#525252")


def _height(study: str, row: Line) -> float:
    if study == "saturation":
        return float(row["first_token_p99_ms"]) / 1000
    return float(row["most_per_s"]) if study == "seats" else 100 * float(row["failed"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lines", type=Path)
    parser.add_argument("--picture", type=Path, metavar="FILE")
    options = parser.parse_args()
    found = [json.loads(line) for line in options.lines.read_text(encoding="utf-8").splitlines()]
    write(found, options.lines)
    if options.picture is not None:
        picture(found, options.picture)
