"""The kinds of files that are read, by their names' suffixes."""

from pathlib import PurePosixPath

KINDS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".txt": "text",
    ".text": "text",
    ".md": "text",
    ".markdown": "text",
    ".tar": "tar",
}
COMPRESSIONS = (".gz", ".zst")
ARCHIVES = ("zip", "tar")
RECOGNISED = f"{', '.join(KINDS)}, each also with {' or '.join(COMPRESSIONS)} behind it, .tgz and .zip"


def file_kind(name: str) -> tuple[str, str] | None:
    """("jsonl" | "json" | "parquet" | "text" | "tar" | "zip", "" | ".gz" | ".zst") by a name, None where unknown."""
    name = name.lower()
    if name.endswith(".tgz"):
        return "tar", ".gz"
    if name.endswith(".zip"):
        return "zip", ""
    compression = next((suffix for suffix in COMPRESSIONS if name.endswith(suffix)), "")
    kind = KINDS.get(PurePosixPath(name.removesuffix(compression)).suffix)
    return (kind, compression) if kind else None
