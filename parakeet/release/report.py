"""The report of a release. Imports no torch."""

import json
from pathlib import Path

from parakeet.errors import ParakeetError
from parakeet.release.report_files import HTML_FILE
from parakeet.release.verify import TRAINING_MANIFEST_FILE, verify_release


def report_of(folder: Path) -> Path:
    """The page of a release, checked against its hash. ParakeetError says what to run if there is none."""
    page = (folder / HTML_FILE).absolute()
    verify_release(folder, [HTML_FILE])
    if page.is_file():
        return page
    try:
        lineage = json.loads((folder / TRAINING_MANIFEST_FILE).read_text(encoding="utf-8"))
        imported = "imported_from" in lineage
    except (OSError, ValueError, TypeError):
        imported = False
    if imported:
        raise ParakeetError(
            f"{folder} was imported: how it was trained is unknown, so it has no report. To measure it: parakeet "
            f"evaluate {folder} --suite standard"
        )
    raise ParakeetError(
        f"{folder} has no report: an earlier Parakeet made it. Run the same build again with: --force release"
    )
