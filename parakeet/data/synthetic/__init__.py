"""The built-in source of text: short dialogues made from tables and templates, with questions held out by design.

A model can be trained and evaluated on it without a download. The text depends only on (count, seed), through
`random.Random.random` and BLAKE2b, so it is the same in every process and every version of Python.
"""

from parakeet.data.synthetic.generator import MAXIMUM_DIALOGUES, TASKS, Dialogue, dialogues, held_out_questions

__all__ = ["MAXIMUM_DIALOGUES", "TASKS", "Dialogue", "dialogues", "held_out_questions"]
