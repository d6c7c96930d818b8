"""The wire of the Gemini API's tuning methods, v1beta and v1."""
