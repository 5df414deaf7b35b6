"""The part of a recipe that says where text comes from, and the base of all its sections."""

import re
from abc import abstractmethod
from collections.abc import Collection, Iterable
from decimal import Decimal
from fractions import Fraction
from importlib.util import find_spec
from typing import Annotated, Any, ClassVar, Literal, get_args
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from parakeet.formatting import parse_share

LARGEST_NUMBER = 1 << 63
"""The libraries below take seeds and sizes as signed 64-bit numbers."""

NOT_A_NUMBER = "Input should be a number"

_WITH_EXPONENT = re.compile(r"[+-]?(\d[\d_]*\.?\d*|\.\d+)[eE][+-]?\d{1,2}")


class Section(BaseModel):
    """Unknown keys are refused. Values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _read_number(cls, value: Any, info: ValidationInfo) -> Any:
        """`3e6` as a whole number, which YAML takes for text. true and false are no numbers, as pydantic has it."""
        kinds = _kinds_of(cls.model_fields[str(info.field_name)].annotation)
        if not kinds & {int, float} or bool in kinds:
            return value
        if isinstance(value, bool):
            raise ValueError(NOT_A_NUMBER)
        if isinstance(value, str) and int in kinds and str not in kinds and _WITH_EXPONENT.fullmatch(value.strip()):
            number = Decimal(value.strip().replace("_", ""))
            value = int(number) if number == number.to_integral_value() else float(number)
        if isinstance(value, int) and abs(value) >= LARGEST_NUMBER:
            raise ValueError(f"Input should be less than {LARGEST_NUMBER:,}")
        return value


def _kinds_of(annotation: Any) -> frozenset[Any]:
    """The types that a field allows: {int, None} for `int | None`."""
    return frozenset(get_args(annotation)) or frozenset((annotation,))


def settings_of(section: Section, part: type[Section] | None = None, without: Collection[str] = ()) -> dict[str, Any]:
    """The keys of a section that differ from their defaults, as JSON values, for a fingerprint or a run's key.

    Keys equal to their default are left out, so that a key that a later Parakeet adds changes no fingerprint. A changed
    default therefore needs a higher version of the stages that read it (tests/test_recipe_defaults.py).
    `part` takes only the keys of that base class.
    """
    names = set(part.model_fields) if part is not None else None
    return section.model_dump(mode="json", exclude_defaults=True, include=names, exclude=set(without))


MOST_BAD = 0.01
"""Share of a source's records that may be unusable by default."""


class Columns(Section):
    """Which columns of a record hold what, if the record has none of the recognised shapes."""

    text: str | None = None
    """Column with a plain document."""
    human: str | None = None
    """Column with what the human says."""
    assistant: str | None = None
    """Column with the reply to it."""
    system: str | None = None
    """Column with a system message; optional beside the others of a conversation."""
    messages: str | None = None
    """Column with a list of turns."""
    alternating: str | None = None
    """Column with a list of texts that alternate between human and assistant, the human's first."""
    role: str = "role"
    """Key of a turn's speaker inside `messages`."""
    content: str = "content"
    """Key of a turn's text inside `messages`."""

    @model_validator(mode="after")
    def _one_shape(self) -> "Columns":
        shapes = [column is not None for column in (self.text, self.messages, self.alternating, self.human)]
        if sum(shapes) != 1 or (self.human is None) != (self.assistant is None):
            raise ValueError("name either text, or messages, or alternating, or both human and assistant")
        return self


class CopySettings(Section):
    """The keys of a source that only deduplication reads."""

    priority: int = 0
    """If several sources hold the same document, the copy of the source with the highest priority is kept."""
    near_duplicates: bool = True
    """Whether to remove near-duplicates of this source's documents. Exact duplicates are always removed."""


class MixSettings(Section):
    """The keys of a source that only the packing plan reads."""

    weight: float | None = Field(default=None, gt=0.0)
    """Share of the training tokens, relative to the other sources' weights. Give one to all sources or to none."""
    epochs: float = Field(default=1.0, gt=0.0, le=100.0)
    """How often a document may be seen in one pass over the mix; 0.5 uses half of the documents."""


class SourceName(Section):
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Name in every table and report; letters, digits, dot, dash, underscore."""
    licence: str = "unknown"
    """Licence of the text. The model card lists it."""


class SourceSettings(MixSettings, CopySettings, SourceName):
    """The keys of every source, and what every kind of source answers.

    A new kind is a subclass here, with an entry in `SOURCE_KINDS`, `Source` and `EvaluationSet`, and the class that
    lists its files, which `RemoteSource.lister` names.
    """

    @abstractmethod
    def place(self, limit: float) -> str:
        """Where the text comes from, in a few words, if the share `limit` is taken."""

    def missing_package(self) -> str | None:
        """What has to be installed before the source can be read; None if everything is there."""
        return None


class Forecast(Section):
    """What is known about a source before it is fetched. Only `parakeet plan` reads it."""

    rows: int = Field(default=0, ge=0)
    """Records."""
    download_bytes: int = Field(default=0, ge=0)
    """Bytes of the files."""
    content_bytes: int = Field(default=0, ge=0)
    """UTF-8 bytes of the text in them."""


def _share(value: Any) -> Any:
    return parse_share(value) if isinstance(value, str) else value


class RecordSource(SourceSettings):
    """A source whose files hold records."""

    columns: Columns | None = None
    """Column names, for records whose shape is not recognised."""
    speakers: dict[str, Literal["system", "human", "assistant"]] = Field(default={})
    """Names of speakers that are not recognised, such as {bing: assistant}."""
    bad_records: Annotated[float, BeforeValidator(_share), Field(ge=0.0, le=1.0)] = MOST_BAD
    """Share of the records that may be unusable, such as 5% or 0.05. More of them stop the build. What is normal in
    published sets (empty turns, tool calls, …) does not count, up to half of the records or to this share if it is
    larger."""
    separator: str | None = Field(default=None, min_length=1, max_length=100)
    """Line that separates two documents of a text file. By default, text is split at blank lines."""
    forecast: Forecast = Forecast()
    """Sizes for `parakeet plan`."""


class FileSource(RecordSource):
    kind: Literal["files"] = "files"
    """Text that is already on this machine."""
    path: str
    """A file, a folder or a glob; relative to the recipe file. What exists under this name is not taken for a glob."""

    def place(self, limit: float) -> str:
        return self.path


LEAST_DIALOGUES = 100


def _refuse_password(key: str, address: str | None, place: str) -> None:
    """Raise ValueError if an address holds a user name or password: recipes end up in manifests of releases."""
    try:
        found = "@" in urlsplit(address or "").netloc
    except ValueError:  # the download reports that the address is malformed
        found = "@" in (address or "")
    if found:
        raise ValueError(
            f"{key} holds a user name or password, which would be published with everything that is made from the "
            f"recipe. Remove them, and put them into {place}"
        )


class RemoteSource(RecordSource):
    """A source whose files have to be fetched, by a stage of its own."""

    storage: ClassVar[str]
    """The badge of its asset in Dagster."""
    lister: ClassVar[str]
    """The subclass of parakeet.download.source_folder.SourceFiles that lists its files, as `module:class`."""

    as_of: str = Field(default="", pattern=r"^(\d{4}-\d{2}-\d{2})?$")
    """Date of the look at the source. Another date looks again and fetches what has changed. Empty: once and for all.
    The schedule `source_looks` sets it, in quotes."""

    @abstractmethod
    def file_names(self) -> list[str]:
        """Names or globs of its files, as far as the recipe has them."""

    def fetch_settings(self) -> dict[str, Any]:
        """What decides which files are fetched, for the fingerprint of that stage."""
        return settings_of(self, without=RecordSource.model_fields)


class RemoteFile(Section):
    """One file to download."""

    url: str | None = None
    """HTTP(S) address."""
    drive_id: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_-]{10,100}$")
    """Google Drive id, instead of the address."""
    file_name: str = Field(default="", pattern=r"^([A-Za-z0-9_][A-Za-z0-9._+-]{0,199})?$")
    """Name to save the file under. Its ending says what kind of file it is. Default: the last part of the address."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """Hash that the file must have, if it is known."""
    n_bytes: int | None = Field(default=None, ge=1)
    """Size that the file must have in bytes, if it is known."""

    @model_validator(mode="after")
    def _one_place(self) -> "RemoteFile":
        if (self.url is None) == (self.drive_id is None):
            raise ValueError("name either url or drive_id")
        _refuse_password("url", self.url, "~/.netrc")
        if self.drive_id is not None and not self.file_name:
            raise ValueError("a file on Google Drive needs a file_name, which says what kind of file it is")
        return self


class DownloadSource(RemoteSource):
    storage = "http"
    lister = "parakeet.download.http:DownloadFiles"

    kind: Literal["download"]
    """Files to fetch by HTTP(S) or from Google Drive."""
    files: list[RemoteFile] = Field(min_length=1)
    """The files."""

    def place(self, limit: float) -> str:
        first = self.files[0]
        url = urlsplit(first.url or "")
        place = f"{url.netloc}, {url.path.split('/')[-1]}" if first.url else f"Google Drive, {first.file_name}"
        more = f" and {len(self.files) - 1} more" if len(self.files) > 1 else ""
        pinned = ", pinned by hash" if all(file.sha256 for file in self.files) else ""
        return f"download {place}{more}{pinned}"

    def file_names(self) -> list[str]:
        # A path can say more of the file than its last part. A name on Google Drive is the user's choice.
        return [".zip" if file.drive_id else file.file_name or urlsplit(file.url or "").path for file in self.files]

    def fetch_settings(self) -> dict[str, Any]:
        """Without what each file must be, which changes nothing of what it is: a hash learnt later fetches nothing."""
        files = [settings_of(file, without={"sha256", "n_bytes"}) for file in self.files]
        return {**super().fetch_settings(), "files": files}


class HubSource(RemoteSource):
    storage = "huggingface"
    lister = "parakeet.download.hub:HubFiles"

    kind: Literal["hub"]
    """A dataset of the Hugging Face hub."""
    dataset: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Owner and name."""
    revision: str = "main"
    """Commit, tag or branch. A tag or branch is resolved to its commit once, and stays there."""
    files: list[str] = Field(min_length=1)
    """Globs of the files to fetch, inside the dataset."""

    def place(self, limit: float) -> str:
        is_commit = len(self.revision) == 40 and set(self.revision) <= set("0123456789abcdef")
        return f"hub {self.dataset}@{self.revision[:10] if is_commit else self.revision}"

    def file_names(self) -> list[str]:
        return self.files


class BucketSource(RemoteSource):
    storage = "s3"
    lister = "parakeet.download.bucket:BucketFiles"

    kind: Literal["bucket"]
    """Files in an S3-compatible store."""
    path: str = Field(pattern=r"^s3://[^/]+/.+$")
    """Bucket and key or glob: s3://bucket/folder/*.jsonl.gz."""
    endpoint: str | None = Field(default=None, pattern=r"^https?://")
    """Address of a store other than Amazon's."""
    anonymous: bool = False
    """Whether to connect without credentials. By default they come from the usual AWS_… variables and files."""

    @model_validator(mode="after")
    def _no_password(self) -> "BucketSource":
        _refuse_password("endpoint", self.endpoint, "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
        return self

    def place(self, limit: float) -> str:
        # Without the query, which can contain a secret token.
        endpoint = (self.endpoint or "").partition("?")[0].partition("#")[0]
        return f"bucket {self.path}" + (f" at {endpoint}" if endpoint else "")

    def missing_package(self) -> str | None:
        if find_spec("s3fs") is None:
            return "Sources of kind bucket need s3fs: pip install 'parakeet-lm[s3]'"
        return None

    def file_names(self) -> list[str]:
        return [self.path]


class SyntheticSource(SourceSettings):
    kind: Literal["synthetic"] = "synthetic"
    """Short dialogues that Parakeet generates, with held-out questions to score."""
    documents: int = Field(default=25_000, ge=100, le=100_000)
    """Number of distinct dialogues."""
    seed: int = Field(default=1, ge=0)
    """Seed of the generator."""

    def place(self, limit: float) -> str:
        return f"{self.count(Fraction(str(limit))):,} dialogues"

    def count(self, share: Fraction) -> int:
        """Number of dialogues that are generated if this share of the source is taken."""
        return max(LEAST_DIALOGUES, round(self.documents * share))


LEAST_RANDOM_BITS = 64
"""With fewer bits, two of a million documents could be equal, and deduplication would drop one."""
LEAST_HELD_OUT_SYMBOLS = 2_000


class RandomSource(SourceSettings):
    kind: Literal["random"]
    """Random text to measure how many bits a model can memorise. Each document has symbols × log2(alphabet) bits."""
    documents: int = Field(ge=1, le=1_000_000)
    """Number of documents to train on. A fiftieth more, at least 2,000 symbols, is held out."""
    symbols: int = Field(default=64, ge=2, le=65_536)
    """Characters of a document. Each is drawn uniformly, and independently of the others."""
    alphabet: Literal[2, 4, 8, 16, 32, 64] = 64
    """Number of characters to draw from: the first of a-z, A-Z, 0-9, _ and =."""
    seed: int = Field(default=1, ge=0)
    """Seed of the generator. With the same seed, fewer documents are the first ones of more."""
    near_duplicates: bool = False
    """Random texts have none."""

    @model_validator(mode="after")
    def _distinct(self) -> "RandomSource":
        if self.bits < LEAST_RANDOM_BITS:
            raise ValueError(
                f"documents of {self.bits} bits (symbols × log2(alphabet)) can be equal by chance. Raise symbols or "
                f"alphabet until they have {LEAST_RANDOM_BITS}"
            )
        return self

    @property
    def bits(self) -> int:
        """Entropy of a document."""
        return self.symbols * (self.alphabet.bit_length() - 1)

    def place(self, limit: float) -> str:
        count = self.count(Fraction(str(limit)))
        return f"{count:,} documents of {self.symbols:,} random symbols, {count * self.bits:,} bits"

    def count(self, share: Fraction) -> int:
        """Number of training documents if this share of the source is taken."""
        return max(1, round(self.documents * share))

    def held_out(self, share: Fraction) -> int:
        """Number of held-out documents if this share of the source is taken."""
        return max(self.count(share) // 50, -(-LEAST_HELD_OUT_SYMBOLS // self.symbols))


def _source_kind(value: Any) -> str:
    kind = value.get("kind", "files") if isinstance(value, dict) else getattr(value, "kind", "files")
    return str(kind)


SOURCE_KINDS: dict[str, type[SourceSettings]] = {
    "files": FileSource,
    "download": DownloadSource,
    "hub": HubSource,
    "bucket": BucketSource,
    "synthetic": SyntheticSource,
    "random": RandomSource,
}

SOURCE_FILES = "source_files"
"""Each remote source is fetched by a stage of its own, called `source_files/<source>`."""

TRAINING_KEYS = {*CopySettings.model_fields, *MixSettings.model_fields, "forecast"}
"""Settings of a source that say how it is trained on. They mean nothing for an evaluation set."""


def source_stage(source: RemoteSource) -> str:
    """Name of the stage that fetches a source."""
    return f"{SOURCE_FILES}/{source.name}"


def remote_sources(sources: Iterable[SourceSettings]) -> list[RemoteSource]:
    """Those of the sources that have to be fetched."""
    return [source for source in sources if isinstance(source, RemoteSource)]


def local_sources(sources: Iterable[SourceSettings]) -> tuple[str, ...]:
    """Names of those whose files lie on this machine."""
    return tuple(source.name for source in sources if isinstance(source, FileSource))


def settings_for_reading(source: SourceSettings) -> dict[str, Any]:
    """What decides how a source's records are read. Where its files are is left out: their content is an input."""
    place = set(type(source).model_fields) - set(RecordSource.model_fields) if isinstance(source, RecordSource) else ()
    return {"kind": _source_kind(source), **settings_of(source, without={*TRAINING_KEYS, *place, "kind"})}


Source = Annotated[
    Annotated[FileSource, Tag("files")]
    | Annotated[DownloadSource, Tag("download")]
    | Annotated[HubSource, Tag("hub")]
    | Annotated[BucketSource, Tag("bucket")]
    | Annotated[SyntheticSource, Tag("synthetic")]
    | Annotated[RandomSource, Tag("random")],
    Discriminator(_source_kind),
]

EvaluationSet = Annotated[
    Annotated[FileSource, Tag("files")]
    | Annotated[DownloadSource, Tag("download")]
    | Annotated[HubSource, Tag("hub")]
    | Annotated[BucketSource, Tag("bucket")],
    Discriminator(_source_kind),
]
