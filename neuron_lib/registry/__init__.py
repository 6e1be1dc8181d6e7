"""The models of one host: what is loaded, what is being loaded or unloaded, and who may ask which of them.

    registry        Registry: the harnesses by name, the models by id; load, unload, list, chat
    hosted_model    HostedModel: one model from the start of its load until its memory is back
    phases          the phases of a hosted model, and what each event does in each phase: a table
    hosted_models   all hosted models: finds them by id, starts them, enforces their deadlines
    leased_reply    a reply, and the lease that keeps its model from being unloaded under the reply
    absent_models   the answer to a request for a model that does not serve
    way_in          the way of a request to its model, which may have to be loaded first
    residency       loads on demand, room for loads, and unloads of idle models: acts on the decisions of making_room
    load_line       the loads that wait until there is room, and who waits for them
    making_room     which loads may begin, and which models go for them; pure
    residency_rules what a host may do by itself about its models
    cool_down       the pauses after failed loads
    farewell        what a host that stops says of its models
    startup         ActivationTracker and load_default_models: the loading of the configured models
    progress        the progress of a load: its next value, its words, and when it is worth a line in the log
    load_log        the progress of one load, and the lines in the log about it
    leases          the leases of one model
    harnesses       the harnesses by their names

A harness is known here only by the protocol in `neuron_lib.harness`. This file imports none of the
modules, so that a program that only shows the progress of a download does not load the registry.
"""
