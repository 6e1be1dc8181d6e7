"""The whole service, with engines that are `sleeping_engine`: `python sleeping_daemon.py TIMES.json serve …`."""

import sys
from functools import partial
from pathlib import Path

from neuron_lib.llamacpp import harness
from neuron_lib.llamacpp.engine_process import open_engine
from neuron_service.cli import main

if __name__ == "__main__":
    engine = (sys.executable, "-P", str(Path(__file__).with_name("sleeping_engine.py")), sys.argv.pop(1))
    setattr(harness, "open_engine", partial(open_engine, command=engine))  # noqa: B010 - the original is a function
    main()
