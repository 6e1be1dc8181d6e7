"""The rules that an operator has set, from the table of a backend. Pure."""

from neuron_lib.admission.rules import AdmissionRules
from neuron_lib.config import AdmissionConfig

__all__ = ("admission_rules",)


def admission_rules(config: AdmissionConfig) -> AdmissionRules:
    """The rules that an operator has set."""
    return AdmissionRules(
        max_in_flight=config.max_in_flight,
        max_queue_depth=config.max_queue_depth,
        max_wait_s=config.max_wait_secs,
        kv_max_wait_s=config.kv_max_wait_secs,
        max_per_principal=config.max_per_principal,
        anon_max_in_flight=config.anon_max_in_flight,
        anon_max_pending=config.anon_max_pending,
    )
