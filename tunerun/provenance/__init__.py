"""What a result depends on besides its plan: the machine, the packages, and the content of the files that were read."""

from tunerun.provenance.facts import BaseModelFacts, ConfigFile, DataFile, Environment, Facts, FileFacts

__all__ = ["BaseModelFacts", "ConfigFile", "DataFile", "Environment", "Facts", "FileFacts"]
