"""The batching core of one model. Runs in a process of its own: `python -m neuron_lib.engine`.

`protocol` is the only module that the daemon imports. `scheduler`, `sequence`, `step` and the prompt cache (`slots`,
`reuse`, `host_store`, `prompt_cache`) decide and are pure. `runner` computes, `prepare` reads prompts, `loop` and
`__main__` act.
"""
