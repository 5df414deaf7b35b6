"""The studies of a home in Dagster: those that come with Parakeet, and others that were begun there."""

from pathlib import Path
from typing import NamedTuple

import dagster as dg

from assets_defs.studies import partition_of, study_asset, study_job
from parakeet.errors import ParakeetError
from parakeet.recipe_file import load_recipe
from parakeet.studies.records import noted_study
from parakeet.studies.state import begun_studies
from parakeet.studies.study import Study, StudyFile, load_study_file, shipped_studies


class StudyDefinitions(NamedTuple):
    assets: list[dg.AssetSpec]
    jobs: list[dg.JobDefinition]


def study_definitions(root: Path) -> StudyDefinitions:
    """An asset and a job for each study. One whose files cannot be read is left out, with a warning."""
    found = StudyDefinitions([], [])
    for name in dict.fromkeys([*shipped_studies(), *(name for name, _ in begun_studies(root))]):
        try:
            file, partitions = _partitions(root, name)
        except ParakeetError as error:
            dg.get_dagster_logger().warning(f"Study {name} is not shown. {error}")
            continue
        found.assets.append(study_asset(name, file, partitions))
        found.jobs.append(study_job(name, partitions, root))
    return found


def _partitions(root: Path, name: str) -> tuple[StudyFile, list[str]]:
    """The file of a study, and its runs at every scale: as each scale was begun in this home, else as it is shipped."""
    if name in shipped_studies():
        file = load_study_file(name)[1]
        recipe = load_recipe(file.recipe)
        studies = {scale: Study(name, file, scale, recipe) for scale in file.scales}
    else:
        studies = {}
    for begun, scale in begun_studies(root):
        if begun == name and (noted := noted_study(root, name, scale)) is not None:
            studies[scale] = noted
    if not studies:
        raise ParakeetError("It was removed meanwhile.")
    partitions = [partition_of(scale, run) for scale, study in studies.items() for run in study.names()]
    return next(iter(studies.values())).file, partitions
