"""For tests, ours and yours: models that follow a script, and the rules that every backend has to keep.

`harness_contract` has the rules, as checks that a backend runs against itself.
"""

from neuron_lib.testing.scripted import ScriptedHarness, ScriptedModel, ScriptedRunner

__all__ = ("ScriptedHarness", "ScriptedModel", "ScriptedRunner")
