"""The built-in source of text: short dialogues made from tables and templates, with questions held out by design.

It lets a model be trained and judged with no download. Everything follows from (count, seed) through
`random.Random.random` and BLAKE2b, so it is the same in every process and under every version of Python.
"""

from parakeet.conversation import Turn
from parakeet.data.synthetic.dialogue import Dialogue, Question
from parakeet.data.synthetic.generator import MAXIMUM_DIALOGUES, TASKS, dialogues, held_out_questions

__all__ = ["MAXIMUM_DIALOGUES", "TASKS", "Dialogue", "Question", "Turn", "dialogues", "held_out_questions"]
