"""A tuned model for other programs: its model card, and (see `formats`) the files that they load."""

from tunerun.export.model_card import model_card

__all__ = ["model_card"]
