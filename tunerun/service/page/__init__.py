"""The page "My library": tuned models, their curves, a form to tune and a box to try."""
