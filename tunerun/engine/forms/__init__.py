"""Forms: how the rows of a batch are laid out for a pass of the base model, and what they cost together.

Every form gives the same losses and gradients up to rounding; `choose` finds the cheapest one that a base model
computes right, `parts` divides rows that are too many for one pass.
"""

from tunerun.engine.forms.base import Form
from tunerun.engine.forms.parts import parts
from tunerun.engine.forms.probe import choose

__all__ = ["Form", "choose", "parts"]
