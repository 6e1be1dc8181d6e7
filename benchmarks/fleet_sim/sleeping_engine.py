"""An engine whose steps take the time of a table and compute nothing. Everything else is neuron's own engine.

    python sleeping_engine.py TIMES.json --fd N [--parent PID]

The model is loaded for its tokenizer and its template alone. Each token of a reply is the word " word".
"""

import sys
import time
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.fleet_sim.runner import SimulatedRunner
from benchmarks.fleet_sim.step_times import StepTimes
from neuron_lib.engine import __main__ as program
from neuron_lib.engine.cells import StreamCells
from neuron_lib.engine.step import StepPlan, StepResult
from neuron_lib.llama.context import Context
from neuron_lib.llama.model import Model

_SEATS = 256


class SleepingRunner:
    """See `neuron_lib.engine.runner.Runner`."""

    def __init__(self, times: StepTimes) -> None:
        self._times = times
        cells = StreamCells(_SEATS, 1)  # one step at a time needs no account
        self._simulated = SimulatedRunner(times, cells=cells, seats=_SEATS, shares=False, piece=b" word")

    def run(self, plan: StepPlan) -> StepResult:
        """Sleep as long as the plan takes by the table."""
        began_s = time.monotonic()
        move_s = self._simulated.edit(plan)
        each_s = self._times.step_s(plan.chunks)
        time.sleep(max(0.0, began_s + move_s + each_s - time.monotonic()))
        return self._simulated.result(plan, times=1, each_s=time.monotonic() - began_s - move_s)


def main() -> None:
    """Put the sleeping runner in the place of the real one, and run the engine."""
    times = msgspec.json.decode(Path(sys.argv.pop(1)).read_bytes(), type=StepTimes)
    # What Python and sampling take is taken by the real loop around this runner.
    times = msgspec.structs.replace(times, outside_s=0.0, outside_each_s=0.0)

    def build_runner(model: Model, context: Context) -> SleepingRunner:
        del model, context
        return SleepingRunner(times)

    setattr(program, "build_runner", build_runner)  # noqa: B010 - the type of the original is narrower
    program.main()


if __name__ == "__main__":
    main()
