"""For who writes a backend: the contract every backend has to keep, and what its tests need."""
