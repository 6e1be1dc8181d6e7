"""Simulates fleets and writes what came of it.

    python -m benchmarks.fleet_sim [STUDY …] [--table] [--out FILE] [--hosts N] [--seed N] [--quick]

Prints one JSON line for each simulation, or with `--table` one table for each study. With `--out` the lines are written
to a file, and tables and a picture beside it. Without names all studies are done. The same seed gives the same lines.

Read it from the outside to the inside:

studies, host_studies, fleet_studies    the questions
fleet                                   clients, a gateway, hosts and faults: one simulation
traffic, shapes                         who asks what and when
gateway                                 polls, and the choice of a host
host, runner                            neuron's own admission, scheduler and cache, without a model
step_times, machines, measure           how long a step takes
outcomes, report                        the numbers, and their tables
validate, sleeping_daemon               a real daemon beside the simulation
agenda                                  the clock
"""

import argparse
import json
from pathlib import Path

from benchmarks.fleet_sim.report import study_table, write
from benchmarks.fleet_sim.studies import STUDIES
from benchmarks.fleet_sim.study import Size


def main(arguments: list[str] | None = None) -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", metavar="STUDY", help=f"of: {', '.join(STUDIES)}")
    parser.add_argument("--table", action="store_true", help="print tables instead of lines")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to write the lines, and tables beside them")
    parser.add_argument("--hosts", type=int, default=1000, help="the largest fleet (default: 1000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="short and small, only to see that it works")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.studies) - set(STUDIES)):
        parser.error(f"there is no study {unknown[0]!r}; there are {', '.join(STUDIES)}")
    size = Size(quick=options.quick, hosts=options.hosts, seed=options.seed)
    lines = []
    for name in options.studies or STUDIES:
        rows = []
        for row in STUDIES[name](size):
            rows.append({"bench": "fleet_sim", "study": name, "seed": options.seed} | row)
            if not options.table:
                print(json.dumps(rows[-1]), flush=True)
        if options.table:
            print(study_table(rows))
        lines += rows
    if options.out is not None:
        write(lines, options.out)


if __name__ == "__main__":
    main()
