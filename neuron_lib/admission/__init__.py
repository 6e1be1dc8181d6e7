"""Who may come in, and how many wait and run: `AdmissionRules` decide, one `AdmissionController` a model counts.

Which of those that wait begins next is not decided here but in the engine, which owns the one waiting line.
"""

from neuron_lib.admission.capacity import MINIMAL, Capacity, Need
from neuron_lib.admission.controller import AdmissionController, AdmissionSnapshot, Place, Wait
from neuron_lib.admission.rules import ANONYMOUS, AdmissionRules, name_of

__all__ = (
    "ANONYMOUS",
    "MINIMAL",
    "AdmissionController",
    "AdmissionRules",
    "AdmissionSnapshot",
    "Capacity",
    "Need",
    "Place",
    "Wait",
    "name_of",
)
