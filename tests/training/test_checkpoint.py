import hashlib
import io
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from parakeet.errors import ParakeetError
from parakeet.progress import Progress
from parakeet.training.checkpoint import RunState, checkpoints, prune, read_state, restore_good, restore_newest
from parakeet.training.schedule import Phase, Schedule

from .toy_run import SCHEDULE, ToyRun, run_state, write

LONGER = Schedule(1e-3, 2, 1600, 2000, (Phase(16, 2000),))
SHORTER = Schedule(1e-3, 2, 400, 500, (Phase(16, 500),))


def restore(run: Path, toy: ToyRun, schedule: Schedule = SCHEDULE) -> tuple[RunState | None, str]:
    printed = io.StringIO()
    return restore_newest(run, toy.model, toy.optimizer, schedule, Progress(printed)), printed.getvalue()


def go_back(run: Path, toy: ToyRun, good_step: int) -> tuple[RunState, str]:
    printed = io.StringIO()
    return restore_good(run, toy.model, toy.optimizer, SCHEDULE, Progress(printed), good_step), printed.getvalue()


def save_good(run: Path, toy: ToyRun, step: int, good_step: int) -> Path:
    """Saved by the schedule if both steps are equal, else because somebody stopped the run."""
    return write(run, (toy.model, toy.optimizer, replace(run_state(step), good_step=good_step)))


@pytest.fixture(autouse=True)
def _bitsandbytes_forgets() -> Iterator[None]:
    """Its global manager would apply one test's settings to the next test's parameters at the same indices."""
    yield
    if "bitsandbytes" in sys.modules:
        sys.modules["bitsandbytes"].optim.GlobalOptimManager.get_instance().initialize()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit", "muon", "muon, bf16"])
def test_a_restored_run_makes_the_same_steps_to_the_bit(tmp_path: Path, optimizer: str, device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    name, _, precision = optimizer.partition(", ")
    more = {"momentum_precision": precision} if precision else {}
    undisturbed = ToyRun(name, width=64, device=device, **more)
    for step in (1, 2, 3):
        undisturbed.make_step(step)
    path = undisturbed.save(tmp_path, 3)
    restored = ToyRun(name, width=64, seed=2, device=device, **more)
    assert restore(tmp_path, restored) == (run_state(3), "")
    assert restored.bits() == undisturbed.bits()
    for step in (4, 5):
        undisturbed.make_step(step)
        restored.make_step(step)
    assert restored.bits() == undisturbed.bits()
    kinds = {tensor.dtype for tensor in load_file(path / "optimizer.safetensors").values()}
    assert (torch.uint8 in kinds) == (optimizer == "adamw_8bit")


def test_a_checkpoint_holds_safetensors_and_json_alone(tmp_path: Path) -> None:
    toy = ToyRun()
    toy.make_step(1)
    path = toy.save(tmp_path, 1)
    assert path.name == "step-00000001"
    assert {file.name for file in path.iterdir()} == {"model.safetensors", "optimizer.safetensors", "state.json"}
    assert json.loads((path / "state.json").read_text(encoding="utf-8"))["loaders"] == run_state(1).loaders
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@given(
    st.floats(allow_nan=False),
    st.lists(st.floats(allow_nan=False)),
    st.builds(Schedule, st.floats(0, 1), *[st.integers(0, 1 << 40)] * 3, st.just((Phase(16, 5), Phase(32, 9)))),
)
@settings(max_examples=20, deadline=None)
def test_a_state_comes_back_exactly(loss: float, window: list[float], schedule: Schedule) -> None:
    state = replace(run_state(7, schedule, loss), monitor={"losses": window})
    toy = ToyRun()
    with TemporaryDirectory() as folder:
        snapshot = (toy.model, toy.optimizer, state)
        path = write(Path(folder), snapshot)
        assert read_state(path) == state


def test_nothing_restored_hangs_on_the_files(tmp_path: Path) -> None:
    """A file that is removed while it is mapped keeps its space on the disk."""
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux lists what a process has mapped")
    toy = ToyRun()
    toy.make_step(1)
    toy.save(tmp_path, 1)
    assert restore(tmp_path, toy)[0] is not None
    assert str(tmp_path) not in Path("/proc/self/maps").read_text(encoding="utf-8")


def test_an_empty_run_has_nothing_to_restore(tmp_path: Path) -> None:
    assert restore(tmp_path, ToyRun()) == (None, "")
    assert checkpoints(tmp_path / "missing") == []


def flip_last_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def change_tokens(path: Path) -> None:
    path.write_text(path.read_text(encoding="utf-8").replace('"tokens": 200', '"tokens": 201'), encoding="utf-8")


TENSORS = ("model.safetensors", "optimizer.safetensors")
DAMAGES: list[tuple[str, Callable[[Path], object]]] = [
    *[(name, flip_last_bit) for name in TENSORS],
    *[(name, lambda path: path.write_bytes(path.read_bytes()[:-9])) for name in (*TENSORS, "state.json")],
    *[(name, Path.unlink) for name in (*TENSORS, "state.json")],
    ("state.json", change_tokens),
    *[("state.json", lambda path, text=text: path.write_text(text)) for text in ("[]", "{}", "", '{"sha256": 1}')],
    ("state.json", lambda path: path.write_bytes(b"\xff\xfe")),
]


@pytest.mark.parametrize(("name", "damage"), DAMAGES)
def test_a_damaged_checkpoint_is_reported_and_the_one_before_it_used(
    tmp_path: Path, name: str, damage: Callable[[Path], object]
) -> None:
    toy = ToyRun()
    toy.make_step(1)
    toy.save(tmp_path, 1)
    good = toy.bits()
    toy.make_step(2)
    damage(toy.save(tmp_path, 2) / name)
    state, printed = restore(tmp_path, toy)
    assert state == run_state(1)
    assert toy.bits() == good
    assert printed.count("\n") == 1
    assert f"step-00000002/{name}" in printed
    assert "Using the checkpoint before it." in printed


def test_a_run_with_only_damaged_checkpoints_is_refused_and_left_unchanged(tmp_path: Path) -> None:
    toy = ToyRun()
    toy.make_step(1)
    flip_last_bit(toy.save(tmp_path, 1) / "model.safetensors")
    (toy.save(tmp_path, 2) / "state.json").write_text("{", encoding="utf-8")
    toy.save(tmp_path, 450, SHORTER)
    toy.make_step(2)
    before = toy.bits()
    with pytest.raises(ParakeetError, match="Nothing was changed") as caught:
        restore(tmp_path, toy)
    assert "step-00000001/model.safetensors was changed" in str(caught.value)
    assert "step-00000002/state.json cannot be read" in str(caught.value)
    assert "step-00000450" not in str(caught.value)
    assert "--force checkpoint" in str(caught.value)
    assert toy.bits() == before
    assert len(checkpoints(tmp_path)) == 3


def test_a_run_beside_checkpoints_of_other_schedules_starts_over_and_reports_it(tmp_path: Path) -> None:
    toy = ToyRun()
    toy.save(tmp_path, 450, SHORTER)
    state, printed = restore(tmp_path, toy)
    assert state is None
    assert printed.startswith(f"None of the 1 checkpoints in {tmp_path} fits this recipe: ")
    assert "Training starts from the beginning. They are kept" in printed
    assert len(checkpoints(tmp_path)) == 1


def rewrite_without(path: Path, *names: str) -> None:
    """Write the state as a version that did not know these keys."""
    values = json.loads((path / "state.json").read_text(encoding="utf-8"))
    kept = {name: value for name, value in values.items() if name not in (*names, "sha256")}
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
    (path / "state.json").write_text(json.dumps(kept | {"sha256": digest}), encoding="utf-8")


def test_a_checkpoint_of_an_earlier_version_can_be_resumed_and_rolled_back_to(tmp_path: Path) -> None:
    toy = ToyRun()
    toy.make_step(1)
    rewrite_without(toy.save(tmp_path, 1), "good_step")
    saved = toy.bits()
    for read in (restore, lambda run, other: go_back(run, other, good_step=1)):
        other = ToyRun(seed=2)
        assert read(tmp_path, other) == (replace(run_state(1), good_step=1), "")
        assert other.bits() == saved


@pytest.mark.parametrize("name", ["tokens", "schedule", "files", "optimizer"])
def test_a_checkpoint_that_lacks_a_key_without_default_is_not_used(tmp_path: Path, name: str) -> None:
    toy = ToyRun()
    toy.save(tmp_path, 1)
    rewrite_without(toy.save(tmp_path, 2), name)
    state, printed = restore(tmp_path, toy)
    assert state == run_state(1)
    assert f"state.json was written by another version of Parakeet: it has no {name}." in printed


def test_another_models_checkpoint_is_refused_with_both_shapes(tmp_path: Path) -> None:
    ToyRun(width=32).save(tmp_path, 2)
    ToyRun(width=16).save(tmp_path, 1)
    toy = ToyRun(width=16)
    before = toy.bits()
    with pytest.raises(ParakeetError, match=r"another model.*\[64, 32\], the recipe's \[64, 16\]") as caught:
        restore(tmp_path, toy)
    assert str(tmp_path) in str(caught.value)
    assert toy.bits() == before


def test_another_optimizers_checkpoint_is_refused_with_both_names(tmp_path: Path) -> None:
    saved = ToyRun("adamw")
    saved.make_step(1)
    saved.save(tmp_path, 1)
    toy = ToyRun("muon", seed=2)
    before = toy.bits()
    with pytest.raises(ParakeetError, match=r"AdamW over 10 \+ 7 parameters; the recipe's is Muon\+AdamW over 9 \+ 1 "):
        restore(tmp_path, toy)
    assert toy.bits() == before


def test_a_joined_optimizer_is_named_after_its_parts(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    ToyRun("adamw_8bit").save(tmp_path, 1)
    with pytest.raises(ParakeetError, match=r"another optimizer: AdamW8bit over .*; the recipe's is Muon\+AdamW over"):
        restore(tmp_path, ToyRun("muon"))


def test_a_run_resumes_from_the_newest_checkpoint_that_both_schedules_share(tmp_path: Path) -> None:
    toy = ToyRun()
    for step in (300, 400, 500):
        toy.save(tmp_path, step, SHORTER)
    assert restore(tmp_path, toy, LONGER)[0] == run_state(400, SHORTER)
    assert restore(tmp_path, toy, SHORTER)[0] == run_state(500, SHORTER)


def test_a_decay_branch_replaces_no_checkpoint_of_the_run_it_was_cut_from(tmp_path: Path) -> None:
    toy = ToyRun()
    for step in (400, 500):
        toy.save(tmp_path, step, LONGER)
    assert toy.save(tmp_path, 500, SHORTER).name == "step-00000500-of-00000500"
    assert restore(tmp_path, toy, LONGER)[0] == run_state(500, LONGER)
    assert restore(tmp_path, toy, SHORTER)[0] == run_state(500, SHORTER)
    prune(tmp_path, run_state(500, SHORTER), 1, 0)
    assert [path.name for path in checkpoints(tmp_path)] == [
        "step-00000400",
        "step-00000500",
        "step-00000500-of-00000500",
    ]


def names(run: Path) -> list[int]:
    return [read_state(path).step for path in checkpoints(run)]


def best(run: Path) -> dict[str, float]:
    values: dict[str, float] = json.loads((run / "best.json").read_text(encoding="utf-8"))
    return values


LOSSES = st.none() | st.floats(0, 10) | st.just(float("nan"))


@given(
    st.lists(st.tuples(st.integers(1, 1000), LOSSES), min_size=1, max_size=7, unique_by=lambda pair: pair[0]),
    st.integers(1, 3),
    st.sampled_from([0, 100, 7]),
)
@settings(max_examples=25, deadline=None)
def test_what_is_kept_is_what_is_needed(made: list[tuple[int, float | None]], keep: int, every: int) -> None:
    made = sorted(made, key=lambda pair: pair[0])
    toy = ToyRun()
    with TemporaryDirectory() as folder:
        run = Path(folder)
        for step, loss in made:
            toy.save(run, step, SCHEDULE, loss)
        prune(run, run_state(made[-1][0]), keep, every)
        steps = [step for step, _ in made]
        measured = [(loss, step) for step, loss in made if loss is not None and loss == loss]
        expected = {*steps[-keep:], *[step for step in steps if step <= 800][-1:]}
        expected |= {step for step in steps if every and step % every == 0}
        expected |= {min(measured)[1]} if measured else set()
        assert names(run) == sorted(expected)
        if measured:
            assert best(run) == {"step": min(measured)[1], "validation_loss": min(measured)[0]}
        else:
            assert not (run / "best.json").exists()


def test_the_good_one_stays_also_where_a_later_one_could_not_be_saved(tmp_path: Path) -> None:
    """The schedule asked for 400, and the disk was full; somebody stopped the run at 390, 410 and 420."""
    toy = ToyRun()
    save_good(tmp_path, toy, 100, good_step=100)
    save_good(tmp_path, toy, 200, good_step=200)
    for step, good_step in ((390, 200), (410, 400), (420, 400)):
        save_good(tmp_path, toy, step, good_step)
        prune(tmp_path, replace(run_state(step), good_step=good_step), 1, 0)
        assert names(tmp_path) == [200, step]
    assert go_back(tmp_path, toy, good_step=400)[0].step == 200


def test_a_rollback_uses_the_newest_intact_checkpoint_that_the_schedule_asked_for(tmp_path: Path) -> None:
    toy = ToyRun()
    for step, good_step in ((200, 200), (300, 300), (390, 300), (400, 400), (410, 400)):
        path = save_good(tmp_path, toy, step, good_step)
    (path / "state.json").write_text("{", encoding="utf-8")
    assert go_back(tmp_path, toy, good_step=399)[0].step == 300
    assert go_back(tmp_path, toy, good_step=400)[0].step == 400
    flip_last_bit(tmp_path / "step-00000400" / "optimizer.safetensors")
    state, printed = go_back(tmp_path, toy, good_step=400)
    assert state.step == 300
    assert "step-00000400/optimizer.safetensors was changed after it was written. Using the checkpoint" in printed
    assert [path.name for path in checkpoints(tmp_path)][-1] == "step-00000410"


def test_a_run_that_cannot_roll_back_gets_the_reason_and_stays_unchanged(tmp_path: Path) -> None:
    toy = ToyRun()
    toy.make_step(1)
    before = toy.bits()
    save_good(tmp_path, toy, 410, good_step=400)
    with pytest.raises(ParakeetError, match=r"step 400, but neither that one .* None was saved\. Nothing was removed"):
        go_back(tmp_path, toy, good_step=400)
    flip_last_bit(save_good(tmp_path, toy, 200, good_step=200) / "model.safetensors")
    with pytest.raises(ParakeetError, match=r"step-00000200/model.safetensors was changed .*--force checkpoint"):
        go_back(tmp_path, toy, good_step=400)
    assert names(tmp_path) == [200, 410]
    assert toy.bits() == before


def test_a_longer_runs_checkpoints_displace_nothing(tmp_path: Path) -> None:
    toy = ToyRun()
    for step in (400, 1500, 1800, 2000):
        toy.save(tmp_path, step, LONGER, validation_loss=0.1)
    for step in (450, 500):
        toy.save(tmp_path, step, SHORTER, validation_loss=2.0 - step / 1000)
        prune(tmp_path, run_state(step, SHORTER), 1, 0)
    assert names(tmp_path) == [400, 500, 1500, 1800, 2000]


def test_a_longer_run_leaves_the_checkpoint_that_a_finished_shorter_one_is_retrained_from(tmp_path: Path) -> None:
    toy = ToyRun()
    for step in (200, 400, 500):
        toy.save(tmp_path, step, SHORTER)
        prune(tmp_path, run_state(step, SHORTER), 1, 0)
    for step in (450, 1500, 1600):
        toy.save(tmp_path, step, LONGER)
        prune(tmp_path, run_state(step, LONGER), 1, 0)
    assert names(tmp_path) == [400, 500, 1600]


def test_a_damaged_newer_checkpoint_displaces_nothing(tmp_path: Path) -> None:
    toy = ToyRun()
    for step in (100, 200, 300):
        path = toy.save(tmp_path, step)
    flip_last_bit(path / "model.safetensors")
    toy.save(tmp_path, 250)
    prune(tmp_path, run_state(250), 1, 0)
    assert names(tmp_path) == [250, 300]
    state, printed = restore(tmp_path, toy)
    assert state == run_state(250)
    assert "step-00000300" in printed


def test_an_unreadable_state_does_not_disturb_pruning(tmp_path: Path) -> None:
    toy = ToyRun()
    for step in (100, 200, 300):
        toy.save(tmp_path, step)
    (tmp_path / "step-00000100" / "state.json").write_text("{", encoding="utf-8")
    (tmp_path / "step-notes").mkdir()
    prune(tmp_path, run_state(300), 1, 0)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000100", "step-00000300"]
    assert (tmp_path / "step-notes").exists()
