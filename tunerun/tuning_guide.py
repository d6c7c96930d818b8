"""The limits and the advice of the Gemini API's model tuning guide, which were for Gemini 1.5 Flash.

Google's own service has not offered a tunable model since May 2025; other services that speak its API apply them.
"""

GUIDE = "Gemini API model tuning guide, as last served 2025-04-28"
"""The guide, as messages name it."""

FEWEST_EXAMPLES = 20
"""The guide: start with at least 20 examples."""

ADVISED_EXAMPLES = (100, 500)
"""Between 100 and 500 examples are advised."""

MOST_INPUT_CHARACTERS, MOST_OUTPUT_CHARACTERS = 40_000, 5_000
"""The most characters of an example's text_input and of its output."""

MOST_TRAINING_BYTES = 4 * 2**20
"""The most bytes of all examples: the guide's "4 MB" in its larger reading, above which a service refuses them."""

SAFE_TRAINING_BYTES = 4_000_000
"""The smaller reading of "4 MB", which every service accepts: checks of data warn above it."""
