"""A daemon that loads the model of its argument, prints the engine's process id, and waits to be killed."""

import os
import sys

import anyio

from neuron_lib.engine.protocol import Load
from neuron_lib.llamacpp.engine_process import engine_environment, open_engine


async def main(path: str) -> None:
    load = Load(
        path=path,
        seats=1,
        n_ctx=256,
        n_batch=64,
        n_ubatch=64,
        threads=1,
        gpu_layers=0,
        flash_attn="auto",
        kv_type_k="f16",
        kv_type_v="f16",
        target_step_s=0.1,
    )
    async with open_engine(
        load, model_id="org/demo", environment=engine_environment(os.environ), on_progress=lambda _fraction: None
    ) as engine:
        await engine.wait_ready()
        print(engine.pid, flush=True)  # noqa: T201 - what this program is for
        await anyio.sleep_forever()


if __name__ == "__main__":
    anyio.run(main, sys.argv[1])
