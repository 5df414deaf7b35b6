"""Learned or memorised? What a model repeats of its training text, and what it predicts beyond it, in numbers."""

from parakeet.memorisation.sections import Part, sections

__all__ = ["Part", "sections"]
