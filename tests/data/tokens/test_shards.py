import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from parakeet.data.documents import parts, read_documents
from parakeet.data.tokens.shards import TokenShards
from parakeet.data.tokens.tokenise import make_token_shards
from parakeet.errors import ParakeetError
from parakeet.progress import Progress
from parakeet.recipe import Recipe
from parakeet.template import render_document
from parakeet.tokenizer import train_tokenizer

from ...conftest import Prepared


def test_shards_hold_every_document_as_ids(prepared: Prepared) -> None:
    documents = list(read_documents(parts(prepared.documents)))
    for split in ("train", "held_out"):
        shards = TokenShards(prepared.shards, split, prepared.tokenizer)
        expected = [document for document in documents if document.split == split]
        assert len(shards) == len(expected)
        tables = [pa.ipc.open_file(file).read_all() for file in sorted(prepared.shards.glob(f"{split}-*.arrow"))]
        stored_spans = pa.concat_tables(tables).column("loss_spans").to_pylist()
        for number, document in enumerate(expected):
            ids, spans = render_document(prepared.tokenizer, document.turns)
            assert shards.tokens(number).tolist() == ids.tolist()
            assert stored_spans[number] == spans
            assert shards.names[shards.sources()[number]] == document.source
            assert shards.n_bytes()[number] == document.n_bytes
            assert shards.lengths()[number] == len(ids)


def test_opening_maps_the_files_without_copying(prepared: Prepared) -> None:
    before = pa.total_allocated_bytes()
    shards = TokenShards(prepared.shards, "train")
    assert shards.tokens(0).flags.writeable is False
    assert pa.total_allocated_bytes() - before < 4096


def test_several_files_and_batches_are_one_sequence(prepared: Prepared, tmp_path: Path) -> None:
    values = prepared.recipe.model_dump()
    values["shards"]["shard_bytes"] = 1 << 16
    inputs = {"tokenizer": prepared.tokenizer_folder, "deduplicated_documents": tmp_path / "many"}
    (tmp_path / "many").mkdir()
    for copy in range(8):
        shutil.copy(parts(prepared.documents)[0], tmp_path / "many" / f"part-{copy:05d}.parquet")
    output = tmp_path / "out"
    output.mkdir()
    counts = make_token_shards(Recipe.model_validate(values), inputs, output, Progress())
    assert counts["train"]["files"] > 1
    whole, once = TokenShards(output, "train"), TokenShards(prepared.shards, "train")
    assert len(whole) == 8 * len(once)
    for number in (0, len(once) - 1, len(once), 5 * len(once) + 7, len(whole) - 1):
        assert whole.tokens(number).tolist() == once.tokens(number % len(once)).tolist()


def test_shards_of_another_tokenizer_are_refused_with_both_hashes(prepared: Prepared) -> None:
    other = train_tokenizer(["another text altogether"], 300)
    with pytest.raises(ParakeetError) as caught:
        TokenShards(prepared.shards, "train", other)
    assert other.sha256 in str(caught.value)
    assert prepared.tokenizer.sha256 in str(caught.value)


@pytest.mark.parametrize("keep", [0, 100, -1])
def test_a_torn_shard_is_refused(prepared: Prepared, tmp_path: Path, keep: int) -> None:
    for file in prepared.shards.glob("*.arrow"):
        shutil.copy(file, tmp_path)
    torn = tmp_path / "train-00000-000.arrow"
    torn.write_bytes(torn.read_bytes()[:keep])
    with pytest.raises(ParakeetError, match="not a complete token shard"):
        TokenShards(tmp_path, "train")


def test_too_little_held_out_text_is_reported_before_training(prepared: Prepared, tmp_path: Path) -> None:
    values = prepared.recipe.model_dump()
    values["shards"]["min_held_out_bytes"] = 10_000_000
    inputs = {"tokenizer": prepared.tokenizer_folder, "deduplicated_documents": prepared.documents}
    with pytest.raises(ParakeetError, match="held_out_fraction"):
        make_token_shards(Recipe.model_validate(values), inputs, tmp_path, Progress())


NODE = """
import sys
from pathlib import Path
from parakeet.data.documents import parts
from parakeet.data.tasks import LocalTasks, Report
from parakeet.data.tokens.tokenise import Tokenise
from parakeet.recipe import Shards

if __name__ == "__main__":
    documents, tokenizer, output = map(Path, sys.argv[1:4])
    begin, end = map(int, sys.argv[4:])
    groups = [[path] for path in parts(documents)]
    work = output / "work"
    step = Tokenise(groups, tokenizer, output, work, Shards(), ["talk", "text"])
    (work / "failures").mkdir(parents=True, exist_ok=True)
    LocalTasks([step, Report(work / "failures")], len(groups), 1, logging_dir=str(work / "tokenising"),
               local_tasks=end - begin, local_rank_offset=begin).run()
"""


def test_two_machines_that_share_a_folder_write_the_same_shards(prepared: Prepared, tmp_path: Path) -> None:
    """Two processes at once stand in for them, each with a range of datatrove's ranks (local_rank_offset)."""
    documents, shared = tmp_path / "documents", tmp_path / "shared"
    documents.mkdir()
    shared.mkdir()
    for copy in range(5):
        shutil.copy(parts(prepared.documents)[0], documents / f"part-{copy:05d}.parquet")
    script = tmp_path / "node.py"
    script.write_text(NODE)
    root = Path(__file__).parents[3]
    arguments = [sys.executable, str(script), str(documents), str(prepared.tokenizer_folder), str(shared)]
    nodes = [
        subprocess.Popen([*arguments, *map(str, ranks)], env={**os.environ, "PYTHONPATH": str(root)})
        for ranks in ((0, 2), (2, 5))
    ]
    assert [node.wait(300) for node in nodes] == [0, 0]
    alone = tmp_path / "alone"
    alone.mkdir()
    inputs = {"tokenizer": prepared.tokenizer_folder, "deduplicated_documents": documents}
    make_token_shards(prepared.recipe, inputs, alone, Progress())
    written = {path.name: path.read_bytes() for path in alone.glob("*.arrow")}
    assert len(written) == 10
    assert {path.name: path.read_bytes() for path in shared.glob("*.arrow")} == written


def test_a_shard_that_a_power_cut_shortened_is_refused(prepared: Prepared, tmp_path: Path) -> None:
    """Its task is finished, so it is not run again."""
    inputs = {"tokenizer": prepared.tokenizer_folder, "deduplicated_documents": prepared.documents}
    make_token_shards(prepared.recipe, inputs, tmp_path, Progress())
    shard = tmp_path / "train-00000-000.arrow"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(
        ParakeetError, match=r"train-00000-000\.arrow is shorter than it was written.*--force token_shards"
    ):
        make_token_shards(prepared.recipe, inputs, tmp_path, Progress())
