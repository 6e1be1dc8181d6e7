"""Simulates fleets and writes what came of it.

    python -m benchmarks.fleet_sim [STUDY …] [--out FILE] [--hosts N] [--seed N] [--quick]

Prints one JSON line for each simulation. With `--out` the lines are written to a file, and tables and a picture beside
it. Without names all studies are done.
"""

import argparse
import json
import time
from pathlib import Path

from benchmarks.fleet_sim.report import write
from benchmarks.fleet_sim.studies import STUDIES, Size


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", metavar="STUDY", help=f"of: {', '.join(STUDIES)}")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to write the lines, and tables beside them")
    parser.add_argument("--hosts", type=int, default=1000, help="the largest fleet (default: 1000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="short and small, only to see that it works")
    options = parser.parse_args()
    if unknown := sorted(set(options.studies) - set(STUDIES)):
        parser.error(f"there is no study {unknown[0]!r}; there are {', '.join(STUDIES)}")
    size = Size(quick=options.quick, hosts=options.hosts, seed=options.seed)
    lines = []
    for name in options.studies or STUDIES:
        started = time.perf_counter()
        for row in STUDIES[name](size):
            took_s = round(time.perf_counter() - started, 1)
            lines.append({"bench": "fleet_sim", "study": name, "seed": options.seed, "took_s": took_s} | row)
            print(json.dumps(lines[-1]), flush=True)
            started = time.perf_counter()
    if options.out is not None:
        write(lines, options.out)


if __name__ == "__main__":
    main()
