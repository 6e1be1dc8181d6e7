"""The backend `process`: a model is hosted by another program that serves an OpenAI-style API, one process a model.

entry            what an operator says about such a harness (`[[harnesses]]` with `kind = "process"`)
presets          what is known of some programs, so that an operator need not say it
placeholders     the names in braces that a command may have (pure)
program          entry and preset together, and what they become for one model (pure)
family           the processes of one program, with their memory and processor time, as the kernel lists them
gateway          where a program listens, and how it is asked whether it is well
server_watchdog  whether a program gets on (pure)
output           what a program writes, as lines of our log, bounded
server_process   one program from its start to its death
loaded_model     a model and whatever process serves it, as the registry sees it
reply            one request: by one process, and once more by the next one if the first dies early
harness          fetches the files, starts the program, waits until it serves
backend          the backend as a service offers it

How a program is talked to is for `neuron_lib.upstream`; when a dead one is started again for `neuron_lib.supervision`.
"""
