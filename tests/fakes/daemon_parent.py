"""A daemon that loads the model of its argument, prints the engine's process id, and waits to be killed."""

import os
import sys
from pathlib import Path

import anyio

from neuron_lib.config import AdmissionConfig, LlamaCppConfig
from neuron_lib.llamacpp.engine_environment import engine_environment
from neuron_lib.llamacpp.engine_process import open_engine
from neuron_lib.llamacpp.harness import load_command
from neuron_lib.sources.store import LocalModel


async def main(path: str) -> None:
    load = load_command(
        LlamaCppConfig(n_ctx=256, n_batch=64, n_ubatch=64, threads=1, admission=AdmissionConfig(max_in_flight=1)),
        LocalModel(path=Path(path)),
        environ={},
    )
    async with open_engine(
        load, model_id="org/demo", environment=engine_environment(os.environ), on_progress=lambda _fraction: None
    ) as engine:
        await engine.wait_ready()
        print(engine.pid, flush=True)  # noqa: T201 - what this program is for
        await anyio.sleep_forever()


if __name__ == "__main__":
    anyio.run(main, sys.argv[1])
