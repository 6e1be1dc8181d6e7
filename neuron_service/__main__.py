"""`python -m neuron_service` is the command `neuron`."""

from neuron_service.cli import main

if __name__ == "__main__":
    main()
