"""The list of metrics, and the files of the evaluation. Imports no torch."""

from parakeet.evaluation.base import Metric
from parakeet.evaluation.bits_per_byte import BitsPerByte
from parakeet.evaluation.by_position import BitsPerByteByPosition
from parakeet.evaluation.exact_match import ExactMatch
from parakeet.evaluation.replies import Replies

METRICS: tuple[Metric, ...] = (BitsPerByte(), BitsPerByteByPosition(), ExactMatch(), Replies())
EVALUATION_FILE = "evaluation.json"
REPORT_FILE = "report.md"
