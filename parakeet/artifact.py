"""Artefacts: directories with a manifest, named by the fingerprint of all that decides their content.

`assets/<stage>/<fingerprint>-<n>/` is written whole or not at all: files first, `manifest.json` last, both
synced, then one rename. Nothing here knows what a stage does; `parakeet.stages` lists them.
"""

import datetime
import errno
import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parakeet import __version__
from parakeet.errors import ParakeetError, os_reason
from parakeet.formatting import format_bytes

if TYPE_CHECKING:
    from parakeet.progress import Progress

MANIFEST_FILE = "manifest.json"
SCHEMA_VERSION = 1
PARTIAL_PREFIX = ".partial-"
WORK_FOLDER = "work"
"""A stage's scratch folder: no part of the artefact, and removed when that is finished."""
SPARE_BYTES = 64 << 20
"""Disk space to leave free beyond what a stage expects to write."""

Make = Callable[[Path, "Progress"], dict[str, Any]]
"""Fills a directory and returns the counts that the manifest keeps. The directory is empty, or holds what an
interrupted try of a resumable stage left."""


@dataclass(frozen=True)
class Work:
    """One artefact to make. The fingerprint covers the first five fields."""

    stage: str
    version: int
    settings: dict[str, Any]
    inputs: "Mapping[str, Artifact]" = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    """Raw input files: name to sha256."""
    records: tuple[str, ...] = ()
    """Files about the making (speeds, times). They are verified, but are not part of the content digest."""
    expected_bytes: int = 0
    folder: str = ""
    """Folder under the root; the stage's name by default."""
    resumable: bool = False
    """Whether an interrupted try is continued."""
    recipe: str = ""
    """The recipe's name, for people."""
    links: tuple[str, ...] = ("latest",)
    """Names of links in the folder that lead to this artefact once it is there."""
    earlier: tuple[tuple[str, int], ...] = ()
    """Fingerprints that earlier versions of Parakeet gave this work, newest first, and the stage's version then. What
    they made is found. What they began is continued if the stage's version is still the same."""
    new_settings: frozenset[str] = frozenset()
    """Keys of the settings that those versions lacked, or had with another value."""
    new_inputs: frozenset[str] = frozenset()
    """Inputs that those versions lacked."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", self.folder or self.stage)

    @property
    def fingerprint(self) -> str:
        """First 16 hex digits of a sha256 over stage, version, settings and the content of the inputs."""
        key = {
            "stage": self.stage,
            "version": self.version,
            "settings": self.settings,
            "inputs": {name: artifact.content for name, artifact in self.inputs.items()},
            "files": dict(self.files),
        }
        return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Artifact:
    path: Path
    manifest: Mapping[str, Any]

    @property
    def stage(self) -> str:
        return str(self.manifest["stage"])

    @property
    def fingerprint(self) -> str:
        return str(self.manifest["fingerprint"])

    @property
    def content(self) -> str:
        """sha256 over the sorted hashes of the files: equal for two builds that came out the same."""
        return str(self.manifest["content"])

    @property
    def counts(self) -> dict[str, Any]:
        return dict(self.manifest["counts"])

    @property
    def n_bytes(self) -> int:
        return sum(entry["bytes"] for entry in self.manifest["files"].values())

    @classmethod
    def open(cls, path: Path) -> "Artifact":
        """Read a manifest. ParakeetError if it is missing or cannot be read."""
        file = path / MANIFEST_FILE
        try:
            manifest = json.loads(file.read_text(encoding="utf-8"))
            if manifest["schema"] != SCHEMA_VERSION:
                raise ParakeetError(f"{file} has schema {manifest['schema']}; this Parakeet reads {SCHEMA_VERSION}.")
            return cls(path, manifest)
        except (FileNotFoundError, NotADirectoryError):
            raise ParakeetError(f"{path} is not an artefact: it has no {MANIFEST_FILE}.") from None
        except (ValueError, KeyError, TypeError) as error:
            raise ParakeetError(f"{file} cannot be read as a manifest ({error}).") from None

    def check(self, thorough: bool = False) -> None:
        """Raise ParakeetError if a file is missing or changed.

        Sizes and modification times are compared. If a time differs, or if `thorough`, the sha256 is compared too.
        """
        for name, entry in self.manifest["files"].items():
            path = self.path / name
            try:
                status = path.stat()
            except FileNotFoundError:
                raise self._changed(name, "is missing") from None
            if status.st_size != entry["bytes"]:
                raise self._changed(name, f"has {status.st_size:,} bytes, expected {entry['bytes']:,}")
            if thorough or status.st_mtime_ns != entry["mtime_ns"]:
                found = sha256_of(path)
                if found != entry["sha256"]:
                    raise self._changed(name, f"has sha256 {found}, expected {entry['sha256']}")

    def _changed(self, name: str, how: str) -> ParakeetError:
        return ParakeetError(
            f"{self.path / name} {how}: it was changed after it was made. "
            f"Run the same build again with: --force {self.stage}"
        )


class Store:
    """The artefacts under one root folder.

    Builds make one artefact of a stage at a time, since training takes the whole machine. With `side_by_side`, those of
    small models are made at the same time.
    """

    def __init__(self, root: Path, side_by_side: bool = False) -> None:
        self.root = root
        self._side_by_side = side_by_side

    def find(self, work: Work) -> Artifact | None:
        """The newest artefact with this work's fingerprint, its files checked by size and time.

        One of an earlier fingerprint counts only if nothing newer was made of the same since (`_is_superseded`).
        """
        made = list(self._made(work.folder))
        for wanted in (work.fingerprint, *(fingerprint for fingerprint, _ in work.earlier)):
            found = [(number, path) for fingerprint, number, path in made if fingerprint == wanted]
            if found:
                artifact = Artifact.open(max(found)[1])
                if wanted != work.fingerprint and self._is_superseded(artifact, work):
                    continue
                artifact.check()
                return artifact
        return None

    def ensure(self, work: Work, make: Make, progress: "Progress", force: bool = False) -> tuple[Artifact, bool]:
        """The artefact of this work, and whether it had to be made.

        A second process waits for the first, then finds what it made.
        """
        locks = self.root / ".locks"
        try:
            locks.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise explain_os_error(error, "preparing the assets folder") from None
        if not os.access(self.root, os.W_OK):
            raise ParakeetError(f"{self.root} cannot be written to: change its permissions, or set PARAKEET_HOME.")
        folder = self.root / work.folder
        from parakeet.locking import exclusive  # with filelock, which those who only read do not need

        doing = f"{work.stage} is being made"
        alone = nullcontext() if self._side_by_side else exclusive(locks / f"{work.stage}.lock", doing, progress)
        with alone:
            artifact = None if force else self.find(work)
            made = artifact is None
            if artifact is None:
                with exclusive(locks / f"{work.stage}-{work.fingerprint}.lock", doing, progress):
                    artifact = None if force else self.find(work)
                    made = artifact is None
                    if artifact is None:
                        for read in work.inputs.values():
                            read.check(thorough=True)
                        self._take_over(work, progress)
                        self._require_space(work, force)
                        artifact = self._make(work, make, progress, force)
            elif work.links and not any(_leads_to(folder / link, artifact) for link in ("latest", *work.links)):
                artifact.check(thorough=True)
            for link in work.links:
                point_link(folder / link, artifact.path.name)
        return artifact, made

    def made_after(self, folder: str, fingerprint: str, seconds: float) -> bool:
        """Whether nothing with this fingerprint was made before that time (in Unix seconds)."""
        made = [path for found, _, path in self._made(folder) if found == fingerprint]
        return all((path / MANIFEST_FILE).stat().st_mtime > seconds for path in made)

    def _is_superseded(self, earlier: Artifact, work: Work) -> bool:
        """Whether the same stage version or a later one made an artefact after this one, of what this was made of.

        It was made by force, or in place of one that was removed: its maker wanted no earlier one.
        """
        wanted = _made_of(work, work.settings, {name: read.content for name, read in work.inputs.items()}, work.files)
        for fingerprint, _, path in self._made(work.folder):
            if fingerprint == earlier.fingerprint:
                continue
            with suppress(ParakeetError, KeyError, TypeError, AttributeError):  # as good as removed
                other = Artifact.open(path)
                read = {name: one["content"] for name, one in other.manifest["inputs"].items()}
                if (
                    other.manifest["version"] >= earlier.manifest["version"]
                    and _when_made(other) > _when_made(earlier)
                    and _made_of(work, other.manifest["settings"], read, other.manifest["source_files"]) == wanted
                ):
                    return True
        return False

    def directories(self, folder: str) -> list[Path]:
        """The finished artefacts in one stage's folder."""
        return sorted(path for _, _, path in self._made(folder))

    def artifacts(self, folder: str, content: str | None = None, **inputs: str) -> list[Artifact]:
        """The artefacts in one stage's folder whose manifest can be read, the oldest first.

        Only those with this content, if one is given, and made from inputs with these contents.
        """
        found = []
        for path in self.directories(folder):
            with suppress(ParakeetError, KeyError, TypeError, AttributeError):  # a build and a check say what is wrong
                artifact = Artifact.open(path)
                read = {name: one["content"] for name, one in artifact.manifest["inputs"].items()}
                if content in (None, artifact.content) and inputs.items() <= read.items():
                    found.append((_when_made(artifact), path, artifact))
        return [artifact for _, _, artifact in sorted(found, key=lambda made: made[:2])]

    def partial(self, folder: str) -> list[Path]:
        """Directories that an interrupted or failed stage left behind."""
        return sorted(path for path in (self.root / folder).glob(f"{PARTIAL_PREFIX}*") if path.is_dir())

    def begun(self, work: Work) -> list[Path]:
        """Where an unfinished try of this work may be: `ensure` continues the first that exists."""
        partial = self.partial_of(work)
        same = [fingerprint for fingerprint, version in work.earlier if version == work.version]
        return [partial, *(partial.with_name(f"{PARTIAL_PREFIX}{fingerprint}") for fingerprint in same)]

    @staticmethod
    def note_beside(partial: Path) -> Path:
        """The file with the stage and recipe of an unfinished directory."""
        return partial.with_name(f"{partial.name}.json")

    def partial_of(self, work: Work) -> Path:
        """The directory of a work until it is complete."""
        return self.root / work.folder / f"{PARTIAL_PREFIX}{work.fingerprint}"

    def _made(self, folder: str) -> Iterator[tuple[str, int, Path]]:
        for path in (self.root / folder).glob("*-*"):
            fingerprint, _, number = path.name.rpartition("-")
            if number.isdigit() and not path.name.startswith(".") and path.is_dir() and not path.is_symlink():
                yield fingerprint, int(number), path

    def _make(self, work: Work, make: Make, progress: "Progress", force: bool) -> Artifact:
        started = time.time()
        partial = self.partial_of(work)
        try:
            if force or not work.resumable:
                shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True, exist_ok=True)
            inputs = [artifact.path.relative_to(self.root).as_posix() for artifact in work.inputs.values()]
            note = {"stage": work.stage, "recipe": work.recipe, "resumable": work.resumable, "inputs": inputs}
            replace_file(self.note_beside(partial), json.dumps(note) + "\n")
            for torn in partial.glob(".*"):  # `replace_file` was writing it when it was killed
                if torn.suffix[1:].isdigit():
                    torn.unlink()
            # Hashing tens of gigabytes takes minutes. A try that was killed after it only lacks the rename.
            if not (partial / MANIFEST_FILE).is_file():
                counts = make(partial, progress)
                manifest = self._manifest(work, partial, counts, started)
                replace_file(partial / MANIFEST_FILE, json.dumps(manifest, indent=2) + "\n")
            shutil.rmtree(partial / WORK_FOLDER, ignore_errors=True)
            sync_directory(partial)
            numbers = [n for fingerprint, n, _ in self._made(work.folder) if fingerprint == work.fingerprint]
            final = self.root / work.folder / f"{work.fingerprint}-{max(numbers, default=-1) + 1}"
            partial.rename(final)
            self.note_beside(partial).unlink(missing_ok=True)
            sync_directory(final.parent)
        except OSError as error:
            raise explain_os_error(error, f"making {work.stage}") from error
        return Artifact.open(final)

    def _manifest(self, work: Work, directory: Path, counts: dict[str, Any], started: float) -> dict[str, Any]:
        files = {}
        for path in sorted(path for path in directory.rglob("*") if path.is_file()):
            if path.relative_to(directory).parts[0] == WORK_FOLDER:
                continue
            sync_file(path)
            status = path.stat()
            files[path.relative_to(directory).as_posix()] = {
                "bytes": status.st_size,
                "sha256": sha256_of(path),
                "mtime_ns": status.st_mtime_ns,
            }
        content = [(name, entry["sha256"]) for name, entry in files.items() if name not in work.records]
        return {
            "schema": SCHEMA_VERSION,
            "stage": work.stage,
            "fingerprint": work.fingerprint,
            "content": hashlib.sha256(json.dumps(content).encode()).hexdigest(),
            "version": work.version,
            "settings": work.settings,
            "inputs": {
                name: {"path": a.path.relative_to(self.root).as_posix(), "content": a.content}
                for name, a in work.inputs.items()
            },
            "source_files": dict(work.files),
            "counts": counts,
            "files": files,
            "made": datetime.datetime.fromtimestamp(started, datetime.UTC).isoformat(timespec="seconds"),
            "seconds": round(time.time() - started, 3),
            "versions": {"parakeet": __version__, "python": platform.python_version()},
        }

    def _take_over(self, work: Work, progress: "Progress") -> None:
        """Continue what an earlier version of Parakeet began, if the stage's version is the same."""
        partial = self.partial_of(work)
        for begun in self.begun(work):
            if begun.is_dir() and not partial.exists():
                begun.rename(partial)
        for fingerprint, version in work.earlier:
            left = partial.with_name(f"{PARTIAL_PREFIX}{fingerprint}")
            if work.resumable and version != work.version and left.is_dir():
                progress.say(
                    f"{work.stage} starts from the beginning: {left} is from an earlier Parakeet, which worked "
                    "differently. Remove it with: parakeet clean --unfinished --yes"
                )

    def _require_space(self, work: Work, force: bool) -> None:
        free = shutil.disk_usage(self.root).free
        begun = [] if force or not work.resumable else self.partial_of(work).rglob("*")
        there = sum(path.stat().st_size for path in begun if path.is_file())
        need = max(0, work.expected_bytes - there) + SPARE_BYTES
        if free < need:
            raise ParakeetError(
                f"Too little disk space for {work.stage}: it needs about {format_bytes(need)} and {self.root} has "
                f"{format_bytes(free)} free. Free some (parakeet clean lists what nothing refers to), or set "
                "PARAKEET_HOME to a folder on a larger disk."
            )


def _leads_to(link: Path, artifact: Artifact) -> bool:
    return link.resolve() == artifact.path.resolve()


def _when_made(artifact: Artifact) -> tuple[str, int]:
    """The time in the manifest has seconds only; that of the file tells two apart, if they were not copied."""
    return str(artifact.manifest["made"]), (artifact.path / MANIFEST_FILE).stat().st_mtime_ns


def _made_of(work: Work, settings: Mapping[str, Any], inputs: Mapping[str, str], files: Mapping[str, str]) -> str:
    """What an artefact was made of, without what earlier versions of the work lacked."""
    settings = {name: value for name, value in settings.items() if name not in work.new_settings}
    inputs = {name: content for name, content in inputs.items() if name not in work.new_inputs}
    return json.dumps([settings, inputs, dict(files)], sort_keys=True)


def explain_os_error(error: OSError, doing: str) -> ParakeetError:
    """A message for the user."""
    remedy = _REMEDIES.get(error.errno or 0, "Check disk space and permissions")
    return ParakeetError(
        f"{os_reason(error)} while {doing}. Nothing that was there before was lost or replaced. {remedy}, then run the "
        "same command again."
    )


_REMEDIES = {
    errno.ENOSPC: "Make room on the disk (parakeet clean lists what nothing refers to)",
    errno.EDQUOT: "Make room, or have your quota raised",
    errno.EROFS: "Make the file system writable, or set PARAKEET_HOME to another folder",
    errno.EACCES: "Change the permissions",
    errno.EPERM: "Change the permissions",
    errno.ENAMETOOLONG: "Choose shorter names",
    errno.EISDIR: "Move that folder away: a file is needed there",
    errno.EEXIST: "Move that file away: a folder is needed there",
    errno.ENOTDIR: "Move that file away: a folder is needed there",
    errno.ELOOP: "Correct the symbolic link, which leads to itself",
    errno.ENOMEM: "Close other programs, or raise the limit of memory (ulimit -v)",
    errno.EMFILE: "Allow more open files (ulimit -n)",
}


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Make a directory's entries durable; only POSIX lets a directory be opened."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_synced(path: Path, text: str | bytes) -> None:
    try:
        with path.open("wb") as file:
            file.write(text.encode() if isinstance(text, str) else text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        error.filename = str(path)  # a write to a full disk does not name its file
        raise


def replace_file(path: Path, text: str | bytes, is_private: bool = False) -> None:
    """Write a small file so that readers see the old text or the new one, never half of it.

    A private one is readable by its owner alone, from the first byte on.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if is_private:
            temporary.unlink(missing_ok=True)
            temporary.touch(mode=0o600, exist_ok=False)
        write_synced(temporary, text)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)


def point_link(link: Path, target: str) -> None:
    """Let `link` be a relative symbolic link to `target`, by atomic replacement."""
    if link.is_symlink() and os.readlink(link) == target:
        return
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)
    sync_directory(link.parent)
