"""Forms: ways to lay out the rows of a batch for a pass of the base model.

All forms give the same losses and gradients up to rounding, but they compute different numbers of tokens. `choose`
finds the cheapest form that is right for a base model. In a prototype (SmolLM2-135M, banking77, batch 4, one thread,
2026-11-25) a step cost 0.80 of a padded one with rows packed and logits of learned tokens only, and 0.56 with the
common prefix computed once as well.
"""

from tunerun.engine.forms.base import Form
from tunerun.engine.forms.probe import choose

__all__ = ["Form", "choose"]
