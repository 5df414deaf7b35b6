"""What is new since the promoted release was trained, and the recipe that trains it on that. Imports no torch.

`parakeet retrain` and the schedule `weekly_retraining` both ask `plan_retraining`, so they decide and say the same.
"""

import datetime
import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parakeet.artifact import Artifact, Store
from parakeet.data.reading.stage import local_files
from parakeet.data.tokens.stages import shards_of
from parakeet.earlier import with_new_keys
from parakeet.errors import ParakeetError
from parakeet.formatting import format_percent
from parakeet.hashes import HashCache
from parakeet.home import hashes_file, release_folder, runs_folder
from parakeet.locking import is_held
from parakeet.model.config import OMITTED
from parakeet.recipe import Recipe
from parakeet.recipe_sources import DownloadSource, HubSource, RemoteSource, remote_sources, source_stage
from parakeet.release.history import decisions
from parakeet.release.pointers import incumbent
from parakeet.release.start import pinned
from parakeet.release.verify import TRAINING_MANIFEST_FILE
from parakeet.training.job import LAUNCH_LOCK_FILE, LOCK_FILE
from parakeet.training.runs import load_run, saved_steps, schedule_of
from parakeet.training.schedule import Schedule
from parakeet.training.start import HELD_OUT, less_held_out

LEAST_STABLE = 0.5
"""A stable checkpoint from before this share of its run has learned too little: that of a run which decayed from its
warm-up on is hardly more than its start."""
REPAID = 2.0
"""A retraining begins at the stable checkpoint if it has this many times the tokens that were trained after it.

Those are lost with the decay. Of 205,000 tokens of retraining, after a run of 600,000 with 180,000 in its decay: from
the stable checkpoint 1.082 to 1.100 bits per byte, from the release's weights 1.019 to 1.045, and the release itself
1.074 (docs/benchmarks/retraining.md)."""
SHAPE = ("layers", "heads", "width", *OMITTED)


@dataclass(frozen=True)
class RetrainingPlan:
    """The recipe to build, or None if there is nothing to train on yet; and why, in sentences with the numbers."""

    recipe: Recipe | None
    reason: str


@dataclass(frozen=True)
class NewText:
    """What the files of the sources hold beyond the text of a release.

    Files are counted by content: one that was only moved or renamed is not new. `tokens` is an estimate: the bytes of
    new files, and those by which others have grown, at the release's tokens per byte of each source. A file that was
    changed in its middle counts whole.
    """

    files: int
    new: int
    changed: int
    removed: int
    n_bytes: int
    tokens: int


@dataclass(frozen=True)
class TrainedRelease:
    """A release, and what its training manifest says that it was made of."""

    folder: Path
    manifest: Mapping[str, Any]

    @classmethod
    def open(cls, folder: Path) -> "TrainedRelease":
        path = folder / TRAINING_MANIFEST_FILE
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            trained = cls(folder, manifest)
            _ = (trained.files, trained.tokens, trained.shards_content, trained.run, manifest["recipe"])
            return trained
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ParakeetError(
                f"{path} does not say what the promoted release was trained on ({error or type(error).__name__}), so "
                "what is new is unknown. To train on all text, run parakeet build with its recipe."
            ) from None

    @property
    def files(self) -> dict[str, str]:
        """sha256 of each source file by `<source>/<name>`."""
        return dict(self.manifest["source_files"])

    @property
    def tokens(self) -> int:
        return int(self.manifest["stages"]["token_shards"]["counts"]["train"]["tokens"])

    @property
    def shards_content(self) -> str:
        return str(self.manifest["stages"]["token_shards"]["content"])

    @property
    def run(self) -> str:
        return str(self.manifest["stages"]["checkpoint"]["counts"]["run"])

    def schedule(self) -> Schedule:
        """Of its training. The same run may have been trained with another one since."""
        try:
            recipe = with_new_keys(self.manifest["recipe"])
            if replay := recipe["packing"].get("replay"):  # its training.tokens is only an estimate
                plan = self.manifest["stages"]["packing_plan"]["counts"]
                recipe["training"]["tokens"] = replay["passes"] * plan["rows"] * plan["row_tokens"]
            return schedule_of(recipe)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ParakeetError(f"{self.folder / TRAINING_MANIFEST_FILE} has no schedule ({error}).") from None

    def sizes(self) -> dict[str, int]:
        """Bytes of each source file; without those of local files if an earlier Parakeet made the release."""
        stages = self.manifest["stages"]
        sizes = dict(stages["documents"]["counts"].get("file_bytes", {}))
        for name, stage in stages.items():
            if name.startswith("source_files/"):
                source = name.partition("/")[2]
                sizes |= {f"{source}/{entry['name']}": entry["bytes"] for entry in stage["counts"]["entries"]}
        return sizes

    def tokens_per_byte(self, source: str, sizes: Mapping[str, int]) -> float:
        """Training tokens for each byte of a source's files; for each byte of all text if that is unknown."""
        train = self.manifest["stages"]["token_shards"]["counts"]["train"]
        mine = [sizes.get(label) for label in self.files if label.partition("/")[0] == source]
        n_bytes = 0 if None in mine else sum(size or 0 for size in mine)
        tally = train["sources"].get(source, train) if n_bytes else train
        return float(tally["tokens"] / max(1, n_bytes or tally["bytes"]))


def plan_retraining(root: Path, recipe: Recipe, from_scratch: bool = False, anyway: bool = False) -> RetrainingPlan:
    """Decide whether the promoted release of this recipe should be trained on what is new.

    `from_scratch` trains the recipe as it is on all text; `anyway` also trains if too little is new, or if the same was
    tried and refused. Without a promoted release the plan is to train the first one: the schedule does, since a person
    switched it on. Raises ParakeetError for what cannot be built: sources that are missing, a release that does not
    say what it was made of, text that it was trained on and that is gone, `anyway` without any new text to continue on.
    """
    recipe = with_latest_look(root, recipe)
    present = _present_files(root, recipe)
    folder = incumbent(root, recipe.name)
    if folder is None:
        reason = (
            f"There is no promoted release of recipe {recipe.name} yet: the first one is trained, from new weights on "
            "all text."
        )
        return _unless_refused(root, RetrainingPlan(recipe, reason), None, present, anyway)
    release = TrainedRelease.open(folder)
    new = _new_text(release, present)
    share = new.tokens / max(1, release.tokens)
    what = _described(new, release, share)
    settings = recipe.retraining
    least = max(settings.least_new_tokens, round(settings.least_new_share * release.tokens))
    if not new.n_bytes and not anyway:
        return RetrainingPlan(None, what)
    if new.tokens < least and not anyway:
        return RetrainingPlan(
            None,
            f"{what} Retraining starts at {least:,}: retraining.least_new_tokens is {settings.least_new_tokens:,}, "
            f"retraining.least_new_share {format_percent(settings.least_new_share, 1)}.",
        )
    if from_scratch or settings.start_from == "scratch":
        planned = RetrainingPlan(recipe, f"{what} The recipe is trained from new weights on all text.")
    elif not new.n_bytes:
        raise ParakeetError(
            f"{what} There is nothing to continue with. To train on all text from new weights, run: parakeet retrain "
            "--from-scratch --anyway"
        )
    else:
        planned = _continued(root, recipe, release, new, what)
    return _unless_refused(root, planned, folder, present, anyway)


def _continued(root: Path, recipe: Recipe, release: TrainedRelease, new: NewText, what: str) -> RetrainingPlan:
    """The recipe that continues from the release on new text."""
    for key in SHAPE:
        was, now = release.manifest["recipe"]["model"].get(key, OMITTED.get(key)), getattr(recipe.model, key)
        if was != now:
            raise ParakeetError(
                f"model.{key} of recipe {recipe.name} is {now}, and that of its release {release.folder.name} is "
                f"{was}: its weights cannot be trained further. To train on all text from new weights, run: parakeet "
                "retrain --from-scratch"
            )
    if (less := less_held_out(release.manifest["recipe"], recipe)) is not None:
        raise ParakeetError(
            f"{HELD_OUT} of recipe {recipe.name} is {recipe.deduplication.held_out_fraction:g}, and that of its "
            f"release {release.folder.name} is {less[0]:g}: the release was trained on text of source {less[1]} that "
            f"the new model would be measured on. Set it to {less[0]:g}. To train on all text from new weights, run: "
            "parakeet retrain --from-scratch"
        )
    shards_of(root, release.shards_content)
    settings, training = recipe.retraining, recipe.training
    seen = new.tokens * settings.passes
    replayed = min(round(seen * settings.replay / (1.0 - settings.replay)), release.tokens * settings.passes)
    steps = max(1, -(-(seen + replayed) // training.batch_tokens))
    start = _start(root, release, steps * training.batch_tokens, settings.warmup_fraction)
    replay = {"share": settings.replay, "of": release.shards_content, "passes": settings.passes}
    values = recipe.model_dump(mode="json")
    values["training"] |= {
        "start": str(start.folder),
        "tokens": steps * training.batch_tokens,
        "warmup_steps": round(steps * settings.warmup_fraction),
        "decay_fraction": start.decay_fraction,
    }
    values["packing"] |= {"replay": replay}
    return RetrainingPlan(
        Recipe.model_validate(values),
        f"{what} Training continues from {start.what} for about {steps * training.batch_tokens:,} tokens: the new text "
        f"{settings.passes} times, and {format_percent(settings.replay, 0)} old text.",
    )


@dataclass(frozen=True)
class _Start:
    """The folder of the weights to continue from, what they are, and the share of the steps that decay."""

    folder: Path
    what: str
    decay_fraction: float


def _start(root: Path, release: TrainedRelease, tokens: int, warmup_fraction: float) -> _Start:
    """The stable checkpoint, and a decay as long as that of its run; or the release, and a decay from its warm-up on.

    `tokens` are those of the retraining.
    """
    why = "its training run is gone"
    with suppress(ParakeetError):
        # Not the run's own: that is of the last build, which may have been shorter and refused.
        run, schedule = load_run(runs_folder(root) / release.run), release.schedule()
        stable = [saved for saved in saved_steps(run.path, schedule) if saved.stable]
        why = "its run has no checkpoint from before the decay"
        if stable and stable[-1].step < LEAST_STABLE * schedule.total_steps:
            why = f"its run was decaying from step {stable[-1].step:,} of {schedule.total_steps:,} on"
        elif stable:
            lost = schedule.tokens_until(schedule.total_steps) - schedule.tokens_until(stable[-1].step)
            if tokens >= REPAID * lost:
                step = f"step {stable[-1].step:,} of {schedule.total_steps:,}"
                what = f"the last stable checkpoint of run {run.key[:8]} ({step})"
                return _Start(stable[-1].path, what, round(lost / tokens, 4))
            why = f"that is less than {REPAID:g} times the {lost:,} tokens that followed its last stable checkpoint"
    return _Start(release.folder, f"the weights of release {release.folder.name} ({why})", 1.0 - warmup_fraction)


def _unless_refused(
    root: Path,
    planned: RetrainingPlan,
    current: Path | None,
    present: Mapping[str, tuple[str, int, Path]],
    anyway: bool,
) -> RetrainingPlan:
    """The plan, or why not if the very same was tried since the current release and did not get better."""
    name = current.name if current is not None else None
    assert planned.recipe is not None
    wanted = [planned.recipe.model_dump(mode="json")]
    with suppress(ParakeetError):  # a start that is gone: the build says so
        wanted.append(pinned(planned.recipe, root).model_dump(mode="json"))
    for decision in reversed(decisions(root)[0]) if not anyway else ():
        if decision.recipe != planned.recipe.name or decision.action not in ("refused", "rolled_back"):
            continue
        try:
            tried = TrainedRelease.open(release_folder(root) / decision.release)
        except ParakeetError:
            continue  # it was removed since
        same_files = tried.files == {label: digest for label, (digest, _, _) in present.items()}
        if same_files and decision.previous == name and _completed(tried.manifest["recipe"]) in wanted:
            how = "refused" if decision.action == "refused" else "rolled back"
            return RetrainingPlan(
                None,
                f"The same text was tried on {decision.time[:10]}, and release {decision.release} was {how}: "
                f"{' '.join(decision.reasons)} Change the text or the recipe, or run: parakeet retrain --anyway",
            )
    return planned


def _completed(values: Mapping[str, Any]) -> dict[str, Any] | None:
    """A recorded recipe with the keys that came later, at their defaults; None if it cannot be read any more."""
    try:
        return Recipe(**with_new_keys(values)).model_dump(mode="json")
    except (ValueError, TypeError):
        return None


def _present_files(root: Path, recipe: Recipe) -> dict[str, tuple[str, int, Path]]:
    """sha256, bytes and path of every source file now, by `<source>/<name>`; downloaded ones as of the last look."""
    paths = local_files(list(recipe.sources))
    hashed = HashCache(hashes_file(root)).hashed(paths.values())
    present = {label: (hashed[path][0], hashed[path][1][0], path) for label, path in paths.items()}
    for source in remote_sources(recipe.sources):
        if (fetched := _fetched(root, source)) is None:
            continue
        for entry in fetched.counts["entries"]:
            present[f"{source.name}/{entry['name']}"] = entry["sha256"], entry["bytes"], fetched.path / entry["name"]
    return present


def _new_text(release: TrainedRelease, present: Mapping[str, tuple[str, int, Path]]) -> NewText:
    before, sizes = release.files, release.sizes()
    known = set(before.values())
    rates: dict[str, float] = {}
    new = changed = n_bytes = 0
    tokens = 0.0
    for label, (digest, size, path) in present.items():
        if digest in known:
            continue
        added = size
        if label in before:
            changed += 1
            added = _grown_by(path, size, sizes.get(label), before[label])
        else:
            new += 1
        source = label.partition("/")[0]
        if source not in rates:
            rates[source] = release.tokens_per_byte(source, sizes)
        n_bytes += added
        tokens += added * rates[source]
    removed = len(known - {digest for digest, _, _ in present.values()}) - changed
    return NewText(len(present), new, changed, max(0, removed), n_bytes, round(tokens))


def _grown_by(path: Path, size: int, before: int | None, digest: str) -> int:
    """Bytes that were appended to a file; all of its bytes if something else was changed."""
    if before is None or before > size:
        return size
    hashed = hashlib.sha256()
    left = before
    with path.open("rb") as file:
        while left and (block := file.read(min(left, 1 << 20))):
            hashed.update(block)
            left -= len(block)
    return size - before if hashed.hexdigest() == digest else size


def _described(new: NewText, release: TrainedRelease, share: float) -> str:
    since = f"since release {release.folder.name}"
    gone = f" {_files(new.removed)} {'is' if new.removed == 1 else 'are'} gone." if new.removed else ""
    if not new.n_bytes:
        return f"Nothing is new {since}: {_files(new.files)}, none new or changed.{gone}"
    parts = [f"{_files(new.new)} new" if new.new else "", f"{_files(new.changed)} changed" if new.changed else ""]
    return (
        f"About {new.tokens:,} tokens are new {since} ({', '.join(filter(None, parts))}), {format_percent(share, 1)} "
        f"of the {release.tokens:,} that it was trained on.{gone}"
    )


def _files(number: int) -> str:
    return f"{number:,} file{'s' * (number != 1)}"


def training_now(root: Path) -> list[str]:
    """Keys of the runs that a process trains now."""
    locks = (run / name for run in sorted(runs_folder(root).glob("*")) for name in (LOCK_FILE, LAUNCH_LOCK_FILE))
    return sorted({lock.parent.name for lock in locks if is_held(lock)})


# --- Sources that are downloaded.


def with_latest_look(root: Path, recipe: Recipe) -> Recipe:
    """The recipe with each downloaded source as of the last look at it, so that a build takes what that look found."""
    return _as_of(
        recipe, {source.name: str(look.manifest["settings"]["source"].get("as_of", source.as_of))
                 for source in remote_sources(recipe.sources) if (look := _fetched(root, source)) is not None}
    )  # fmt: skip


def due_sources(root: Path, recipe: Recipe, today: datetime.date) -> RetrainingPlan:
    """The recipe that looks at its downloaded sources again today, if the last look is check_sources_days ago.

    Sources that cannot change (a commit, files with their hash) and those that were never fetched are left out.
    """
    days = recipe.retraining.check_sources_days
    can_change = [source for source in remote_sources(recipe.sources) if not _is_pinned(source)]
    if not can_change:
        return RetrainingPlan(None, f"No source of recipe {recipe.name} can change on its server.")
    looks = {source.name: _last_look(root, source) for source in can_change}
    due = [name for name, look in looks.items() if look is not None and abs((today - look).days) >= days]
    if due:
        return RetrainingPlan(
            _as_of(with_latest_look(root, recipe), dict.fromkeys(due, today.isoformat())),
            f"Looking again at {', '.join(due)}: the last look was {days} days ago or more "
            "(retraining.check_sources_days).",
        )
    said = ", ".join(f"{name} {look.isoformat() if look else 'not fetched yet'}" for name, look in looks.items())
    return RetrainingPlan(None, f"No look is due. Last looks: {said}; retraining.check_sources_days is {days}.")


def _as_of(recipe: Recipe, dates: Mapping[str, str]) -> Recipe:
    sources = [
        source.model_copy(update={"as_of": dates[source.name]}) if source.name in dates else source
        for source in recipe.sources
    ]
    return recipe.model_copy(update={"sources": sources})


def _fetched(root: Path, source: RemoteSource) -> Artifact | None:
    """The source's files as of the last look at it."""

    def without_date(settings: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in settings.items() if key != "as_of"}

    wanted = without_date(source.fetch_settings())
    found = [
        artifact
        for artifact in Store(root).artifacts(source_stage(source))
        if without_date(artifact.manifest["settings"].get("source", {})) == wanted
    ]
    return found[-1] if found else None


def _last_look(root: Path, source: RemoteSource) -> datetime.date | None:
    fetched = _fetched(root, source)
    return datetime.datetime.fromisoformat(str(fetched.manifest["made"])).date() if fetched else None


def _is_pinned(source: RemoteSource) -> bool:
    if isinstance(source, HubSource):
        return len(source.revision) == 40 and set(source.revision) <= set("0123456789abcdef")
    return isinstance(source, DownloadSource) and all(file.sha256 for file in source.files)
