"""The answer of `GET /metrics`: what this host knows and has counted, in Prometheus' text format.

snapshot    what is shown, taken from memory on the event loop
families    a snapshot as metrics: names, help and labels. Pure
page        metrics as text, in a thread, because many models make a long text
"""
