"""Exports tuned models for other programs: the model card, and the files of each format (see `formats`)."""

from tunerun.export.model_card import model_card

__all__ = ["model_card"]
