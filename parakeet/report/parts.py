"""What a report consists of: sections of parts, which the HTML page and the Markdown both show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from parakeet.pages import Table

if TYPE_CHECKING:
    from parakeet.pages.charts import Chart


@dataclass(frozen=True)
class Drawing:
    """A chart. `label` says in words what it shows.

    A Markdown page shows it only if it has a `file`: the name of its two PNG files beside the page, FILE.png and
    FILE-dark.png. Without them the tables beside it have its figures.
    """

    kind: ClassVar[str] = "drawing"
    chart: "Chart"
    label: str
    file: str = ""


@dataclass(frozen=True)
class Heading:
    kind: ClassVar[str] = "heading"
    text: str


@dataclass(frozen=True)
class Facts:
    """Names with values, as text."""

    kind: ClassVar[str] = "facts"
    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Details:
    """Tables and paragraphs that a reader opens."""

    kind: ClassVar[str] = "details"
    summary: str
    parts: Sequence[str | Table | Facts]


@dataclass(frozen=True)
class Answers:
    """One prompt and what the model replied, each with the checkpoint that did; the finished model's is the last."""

    kind: ClassVar[str] = "answers"
    prompt: str
    replies: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Items:
    """Short paragraphs, each with a mark before it."""

    kind: ClassVar[str] = "items"
    texts: Sequence[str]


@dataclass(frozen=True)
class Commands:
    """Lines for a shell."""

    kind: ClassVar[str] = "commands"
    lines: Sequence[str]


Part = str | Table | Drawing | Heading | Facts | Details | Answers | Items | Commands


@dataclass(frozen=True)
class Section:
    key: str
    """Its address on the page."""
    title: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class Tile:
    """A figure that stands out at the top: `71.4%`, what it is, and what it stands beside. `name` and `number` are the
    same for a program, and so is `beside`: its control, which must not be missing where the figure is shown."""

    value: str
    label: str
    note: str
    name: str
    number: float
    beside: Mapping[str, float] = field(default_factory=dict)
