"""The HTTP service: a thin adapter of Litestar to `neuron_lib`. Owns routes, streams, errors and the life of the
process.
"""
