"""Keeps an engine alive for each model, whatever the engine is: restarts after a death, and requests that kill engines.

death           how an engine ended
engine          the end of an engine, once and with a reason
restart_policy  when the next engine is started, and when no more (pure)
quarantine      requests that were alone in engines when these died (pure)
supervisor      the engines of one model, one after another
"""
