"""Parakeet: a build system for one tiny language model."""

__version__ = "0.2.0"
