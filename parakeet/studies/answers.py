"""Who answers which study. A new one is a module with `answer(records, file)`, and a line here."""

from collections.abc import Mapping

from parakeet.studies import attention_answer, generic_answer, memorisation_answer, saturation_answer, size_answer
from parakeet.studies.answer import Answer, Answering
from parakeet.studies.results import Results

ANSWERS: Mapping[str, Answering] = {
    "saturation": saturation_answer.answer,
    "memorisation": memorisation_answer.answer,
    "attention": attention_answer.answer,
}
"""By the name of the study; `size` also has a forecast. The others get the generic answer."""


def answer_of(results: Results) -> Answer:
    """From results with at least one record."""
    if results.name == "size":
        return size_answer.answer(results.records, results.file, results.forecast)
    return ANSWERS.get(results.name, generic_answer.answer)(results.records, results.file)
