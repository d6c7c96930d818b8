"""Chat models that judge answers: the prompt, the call, and the agreement with people."""
