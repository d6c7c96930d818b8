"""Chat models that judge answers: the prompt, the call, and how far a judge agrees with people."""
