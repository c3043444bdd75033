"""`MigfitConfiguration`: what a cluster admin writes, checked and compiled to a `Policy`."""

from extender.config.default import DEFAULT_DOCUMENT
from extender.config.load import Current, load
from extender.config.problem import ConfigError, Problem
from extender.config.validate import LEAST_DOCUMENT

__all__ = ["DEFAULT_DOCUMENT", "LEAST_DOCUMENT", "ConfigError", "Current", "Problem", "load"]
