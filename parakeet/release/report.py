"""The report of a release. Imports no torch."""

import json
from pathlib import Path

from parakeet.artifact import Store
from parakeet.errors import ParakeetError
from parakeet.release.report_files import HTML_FILE, REPORT_STAGE
from parakeet.release.verify import TRAINING_MANIFEST_FILE, verify_release


def report_of(folder: Path, root: Path) -> Path:
    """The page of a release, checked against its hash. ParakeetError says what to run if there is none.

    A release that an earlier Parakeet made has none: then it is the page that the stage `report` under the root made of
    the same checkpoint.
    """
    page = (folder / HTML_FILE).absolute()
    verify_release(folder, [HTML_FILE])
    if page.is_file():
        return page
    try:
        lineage = json.loads((folder / TRAINING_MANIFEST_FILE).read_text(encoding="utf-8"))
        imported = "imported_from" in lineage
        checkpoint = None if imported else lineage["stages"]["checkpoint"]["content"]
    except (OSError, ValueError, KeyError, TypeError):
        imported, checkpoint = False, None
    if checkpoint is not None and (made := Store(root).artifacts(REPORT_STAGE, checkpoint=checkpoint)):
        made[-1].check()
        return (made[-1].path / HTML_FILE).absolute()
    if imported:
        raise ParakeetError(
            f"{folder} was imported: how it was trained is unknown, so it has no report. To measure it: parakeet "
            f"evaluate {folder} --suite standard"
        )
    raise ParakeetError(
        f"{folder} has no report: an earlier Parakeet made it. Run the same build again with: --force release"
    )
