import hashlib
import json
from pathlib import Path

import pytest
import yaml

from parakeet.errors import ParakeetError
from parakeet.model.config import ModelConfig
from parakeet.recipe_file import load_recipe
from parakeet.release.card import render_card
from parakeet.release.listing import released_models
from parakeet.release.verify import open_release, verify_release, write_sums


@pytest.fixture
def release(tmp_path: Path) -> Path:
    folder = tmp_path / "releases" / "0123-0"
    folder.mkdir(parents=True)
    for name in ("model.safetensors", "config.json", "tokenizer.json", "vocabulary.tiktoken"):
        (folder / name).write_bytes(b"weights")
    (folder / "generation_config.json").write_text(
        '{"name": "r", "temperature": 0.5, "stop_ids": [1]}', encoding="utf-8"
    )
    write_sums(folder)
    return folder


def test_a_whole_release_verifies_and_opens(release: Path) -> None:
    assert verify_release(release) == 5
    opened = open_release(release)
    assert (opened.name, opened.generation.temperature) == ("r", 0.5)


def test_every_fault_is_named(release: Path, tmp_path: Path) -> None:
    (release / "model.safetensors").write_bytes(b"weighty")
    with pytest.raises(ParakeetError, match=r"model\.safetensors has sha256"):
        verify_release(release)
    (release / "model.safetensors").unlink()
    with pytest.raises(ParakeetError, match=r"model\.safetensors is missing"):
        verify_release(release)
    with pytest.raises(ParakeetError, match="is not a release"):
        verify_release(tmp_path)


def test_sums_cannot_point_out_of_the_release(release: Path) -> None:
    sums = release / "SHA256SUMS"
    secret = f"{hashlib.sha256(b'weights').hexdigest()}  ../../secret\n"
    sums.write_text(sums.read_text(encoding="utf-8") + secret, encoding="utf-8")
    (release.parents[1] / "secret").write_bytes(b"weights")
    with pytest.raises(ParakeetError, match="is missing"):
        verify_release(release)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"0000  model.safetensors\n"])
def test_sums_that_leave_files_out_are_refused(release: Path, content: bytes) -> None:
    (release / "SHA256SUMS").write_bytes(content)
    with pytest.raises(ParakeetError, match="does not list"):
        open_release(release)


@pytest.mark.parametrize("text", ["", "[]", '{"temperature": 1}', '{"name": "r", "temperature": "hot"}'])
def test_broken_settings_are_refused(release: Path, text: str) -> None:
    (release / "generation_config.json").write_text(text, encoding="utf-8")
    write_sums(release)
    with pytest.raises(ParakeetError, match=r"generation_config\.json cannot be read"):
        open_release(release)


def test_models_are_listed_oldest_first_with_the_latest_marked(release: Path) -> None:
    root = release.parents[1]
    for number, made in (("0123-0", "2026-01-02"), ("4567-0", "2026-01-01")):
        folder = root / "releases" / number
        folder.mkdir(exist_ok=True)
        counts = {"name": number, "parameters": 3, "bits_per_byte": {"a": 1.5, "b": None}}
        (folder / "manifest.json").write_text(
            json.dumps({"schema": 1, "made": made, "counts": counts}), encoding="utf-8"
        )
    (root / "releases" / "latest").symlink_to("4567-0")
    listed = list(released_models(root))
    assert [(model.name, model.latest) for model in listed] == [("4567-0", True), ("0123-0", False)]


def test_imported_models_are_listed_too(release: Path) -> None:
    root = release.parents[1]
    config = ModelConfig(layers=2, heads=2, width=16, context=64, vocabulary_rows=128)
    for folder in (root / "imported" / "mine", root / "original_model" / "89ab-0"):
        folder.mkdir(parents=True)
        config.save(folder)
        (folder / "generation_config.json").write_text(json.dumps({"name": folder.name}), encoding="utf-8")
    counts = {"name": "original", "parameters": 378_343_296}
    (folder / "manifest.json").write_text(
        json.dumps({"schema": 1, "made": "2026-01-01", "counts": counts}), encoding="utf-8"
    )
    listed = [(model.name, model.parameters, model.bits_per_byte, model.latest) for model in released_models(root)]
    assert listed == [("original", 378_343_296, {}, False), ("mine", config.parameter_count, {}, False)]


def test_the_card_has_a_header_and_every_source() -> None:
    recipe = load_recipe("demo")
    training = {"parameters": 3, "tokens": 10, "steps": 2, "seconds": 1.0, "device": "cpu", "final_loss": 1.5}
    tally = {"sources": {source.name: {"documents": 1, "tokens": 2} for source in recipe.sources}}
    evaluation = {"bits_per_byte": {"synthetic": None}, "exact_match": "not applicable", "replies": []}
    card = render_card(recipe, training, evaluation, {"train": tally, "held_out": tally})
    header = yaml.safe_load(card.split("---")[1])
    assert header["datasets"] == ["synthetic"]
    assert header["license"] == "gpl-3.0"
    assert "| synthetic | GPL-3.0-or-later | 1 | 2 | 1 |" in card
    assert "Sensible replies" not in card  # an evaluation from before this metric

    share = {"prompts": 4, "sensible": 0.75, "interval": [0.3, 0.95]}
    failed = [{"category": "greeting", "turns": ["hi"], "replies": ["Paris."], "fault": "shows none of: greeting"}]
    evaluation["chat"] = share | {"categories": {"greeting": share}, "failed": failed}
    card = render_card(recipe, training, evaluation, {"train": tally, "held_out": tally})
    assert "| all | 4 | 75.0% | 30.0% to 95.0% |" in card
    assert "Paris" not in card
