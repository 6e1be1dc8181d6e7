"""The batching core of one model. Runs in a process of its own: `python -m neuron_lib.engine`.

`protocol` is the only module the daemon side imports. `scheduler`, `sequence`, `slots` and `step` decide and are pure;
`runner` computes; `prepare` reads prompts; `loop` and `__main__` act.
"""
