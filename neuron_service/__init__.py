"""The HTTP service, a thin adapter from HTTP to `neuron_lib`. Owns routes, streams and the life of the process."""
