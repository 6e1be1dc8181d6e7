"""The backend `process`: a model is hosted by another program that serves an OpenAI-style API, one process a model.

entry            what an operator says about such a harness (`[[harnesses]]` with `kind = "process"`)
presets          what is known of some programs, so that an operator need not say it
placeholders     the names in braces that a command may have (pure)
program          entry and preset together, and what they become for one model (pure)
presence         whether the program of a harness is on this host
family           the processes of one program, with their memory and processor time, as the kernel lists them
gateway          where a program listens
memory           what a model takes, as far as anybody knows before it starts, and whether that is free
server_watchdog  whether a program gets on (pure)
output           what a program writes, as lines of our log, bounded
sleeping         when a program without requests is sent to sleep, and woken
server_process   one program from its start to its death
server_facts     what a program says about its model (pure)
harness          fetches the files, starts the program, waits until it serves
backend          the backend as a service offers it

How a program is talked to is for `neuron_lib.upstream`; when a dead one is started again for `neuron_lib.supervision`.
"""
