"""The asset `original_checkpoint` and its check, as Dagster runs them."""

import os
from pathlib import Path

import dagster as dg
import pytest

from assets_defs.assets import make_assets
from assets_defs.checks import make_checks
from assets_defs.resources import home_resource
from parakeet.artifact import sha256_of
from parakeet.progress import Progress
from parakeet.recipe_file import load_recipe
from parakeet.release.stages import OriginalCheckpointFile
from parakeet.stages import active_recipe, use_recipe

from ..fault_server import FaultServer
from .archives import BODY, NAME, archive, damaged


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PARAKEET_HOME", str(tmp_path))
    return tmp_path


def run(home: Path, mirror: str, force: bool = False) -> dg.ExecuteInProcessResult:
    recipe = home / "mine.yaml"
    original = f"{{file_name: {NAME}, drive_id: null, mirrors: ['{mirror}']}}"
    recipe.write_text(f"extends: demo\nname: mine\noriginal: {original}\n", encoding="utf-8")
    loaded = load_recipe(str(recipe))
    use_recipe(home, loaded)
    key = dg.AssetKey("original_checkpoint")
    return dg.materialize(
        [
            *(asset for asset in make_assets(loaded) if asset.keys == {key}),
            *(check for check in make_checks(loaded) if {one.asset_key for one in check.check_keys} == {key}),
        ],
        resources={"parakeet_home": home_resource(loaded)},
        run_config={"ops": {"original_checkpoint": {"config": {"force": force}}}},
        raise_on_error=False,
    )


def fault(home: Path) -> str | None:
    """What the asset's check finds."""
    return OriginalCheckpointFile().fault(active_recipe(home), home, Progress())


def test_it_fetches_and_says_what_it_has(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with FaultServer(BODY) as server:
        result = run(home, server.address("cut"))
    assert result.success
    (made,) = result.asset_materializations_for_node("original_checkpoint")
    path = home / "models" / NAME
    assert path.read_bytes() == BODY
    shown = {key: value.value for key, value in made.metadata.items()}
    assert shown["path"] == str(path)
    name = next(name for name in shown if name.startswith("size_mib ("))
    assert shown[name] == pytest.approx(len(BODY) / 2**20, rel=1e-3)
    assert made.tags is not None
    assert shown["sha256"] == sha256_of(path) == made.tags["dagster/data_version"]
    assert shown["source"] == server.address("cut")
    assert [check.passed for check in result.get_asset_check_evaluations()] == [True]
    assert "original_checkpoint     fetched           2.9 MiB, http://127.0.0.1" in capfd.readouterr().err


def test_its_failure_is_one_message(home: Path) -> None:
    with FaultServer(BODY) as server:
        result = run(home, server.address("quota"))
    assert not result.success
    (failure,) = (event for event in result.all_events if event.is_step_failure)
    assert "too many people have downloaded this file" in str(failure.step_failure_data.user_failure_data)


def spoil_unseen(path: Path) -> None:
    """Change a byte, so that neither the file's size nor its time shows it."""
    before = path.stat()
    path.write_bytes(damaged(BODY))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_force_reads_the_file_again(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with FaultServer(BODY) as server:
        address = server.address("whole")
        run(home, address)
        (made,) = run(home, address, force=True).asset_materializations_for_node("original_checkpoint")
        assert "original_checkpoint     checked again     2.9 MiB, http://127.0.0.1" in capfd.readouterr().err
        assert made.metadata["source"].value == address
        spoil_unseen(home / "models" / NAME)
        assert run(home, address).success
        for force in (True, False):  # what force found is not forgotten
            result = run(home, address, force)
            (failure,) = (event for event in result.all_events if event.is_step_failure)
            assert "Bad CRC-32" in str(failure.step_failure_data.user_failure_data)


def test_force_hashes_the_file_again(home: Path) -> None:
    with FaultServer(BODY) as server:
        run(home, server.address("whole"))
        path = home / "models" / NAME
        before = path.stat()
        path.write_bytes(archive(seed=2))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        (made,) = run(home, server.address("whole"), force=True).asset_materializations_for_node("original_checkpoint")
    assert made.metadata["sha256"].value == sha256_of(path)


def test_the_check_reads_nothing_that_is_known(home: Path) -> None:
    with FaultServer(BODY) as server:
        run(home, server.address("whole"))
    path = home / "models" / NAME
    spoil_unseen(path)
    assert fault(home) is None
    path.touch()
    assert fault(home) is not None
    path.unlink()
    assert "it cannot be read" in str(fault(home))


def test_the_check_finds_damage(home: Path) -> None:
    with FaultServer(BODY) as server:
        run(home, server.address("whole"))
    path = home / "models" / NAME
    path.write_bytes(BODY[:-100])
    assert "cut-off archive" in str(fault(home))
