"""A thin Litestar adapter over `neuron_lib`: routes, streams, errors, the life of the process. Decides nothing else."""
