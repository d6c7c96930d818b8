"""What a result depends on beside its plan: the machine, the packages, the code, and the files as they were read."""

from tunerun.provenance.facts import BaseModelFacts, ConfigFile, DataFile, Environment, Facts, FileFacts

__all__ = ["BaseModelFacts", "ConfigFile", "DataFile", "Environment", "Facts", "FileFacts"]
