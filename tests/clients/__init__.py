"""Other people's clients at a real service: `make clients`; no part of the suite, for it installs from the registries."""
