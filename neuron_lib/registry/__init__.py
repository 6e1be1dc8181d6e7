"""The models of one host: what is loaded, what is being loaded or unloaded, and who may ask which of them.

    registry        Registry: the harnesses by name, the models by id; load, unload, list, chat
    hosted_model    HostedModel: one model from the start of its load until its memory is back
    phases          the phases of a hosted model, and what each event does in each phase: a table
    hosted_models   the hosted models by their ids, and by the other ids that mean them
    leased_reply    a reply, and the lease that keeps its model from being unloaded under the reply
    absent_models   what a request hears of a model that does not serve
    startup         ActivationTracker and load_default_models: the loading of the configured models
    progress        how far one load is, in words and as a line of log

A harness is known here only by the protocol in `neuron_lib.harness`. This package imports none of its modules by
itself, so that a program that shows the progress of a download does not load the registry.
"""
