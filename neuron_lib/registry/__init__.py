"""The models of one host: what is loaded, what is being loaded or unloaded, and who may ask which of them.

    registry        Registry: the harnesses by name, the models by id; load, unload, list, chat
    hosted_model    HostedModel: one model from the start of its load until its memory is back
    phases          the phases of a hosted model, and what each event does in each phase: a table
    hosted_models   all hosted models: found by id, started, and held to their deadlines
    leased_reply    a reply, and the lease that keeps its model from being unloaded under the reply
    absent_models   what a request hears of a model that does not serve
    startup         ActivationTracker and load_default_models: the loading of the configured models
    progress        how far a load is, in words; what may be said next of it, and when that is worth a line of log
    load_log        how far one load is, and the lines of log about it
    leases          the leases of one model
    harnesses       the harnesses by their names

A harness is known here only by the protocol in `neuron_lib.harness`. This package imports none of its modules by
itself, so that a program that shows the progress of a download does not load the registry.
"""
