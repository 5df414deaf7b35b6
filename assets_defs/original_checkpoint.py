import dagster as dg

from assets_defs.home import ParakeetHome
from assets_defs.stage_asset import OWNER, StageConfig
from parakeet.artifact import explain_os_error
from parakeet.download.original import fault_of_original, obtain_original
from parakeet.errors import ParakeetError
from parakeet.progress import Progress
from parakeet.stages import ORIGINAL_CHECKPOINT


@dg.asset(
    name=ORIGINAL_CHECKPOINT,
    group_name="original",
    description=(
        "The checkpoint that the original model's author published, as a file in `models/`.\n\nA file that is there "
        "already is used; else it is fetched from the recipe's mirrors or from Google Drive, and checked."
    ),
    owners=[OWNER],
    kinds={"pytorch"},
)
def original_checkpoint(config: StageConfig, parakeet_home: ParakeetHome) -> dg.MaterializeResult:
    progress = Progress()
    try:
        build = parakeet_home.build()
        how = "fetched"
        if build.original_checkpoint.is_file():
            how = "checked again" if config.force else "up to date"
        checked = obtain_original(parakeet_home.root, build.recipe.original, progress, force=config.force)
    except (ParakeetError, OSError) as error:
        known = (
            error if isinstance(error, ParakeetError) else explain_os_error(error, f"fetching {ORIGINAL_CHECKPOINT}")
        )
        raise dg.Failure(description=str(known), allow_retries=False) from None
    progress.say(f"{ORIGINAL_CHECKPOINT:<24}{how:<18}{checked.n_bytes / 1e6:,.1f} MB, {checked.source}")
    return dg.MaterializeResult(
        metadata={
            "path": dg.MetadataValue.path(str(checked.path)),
            "bytes": checked.n_bytes,
            "sha256": checked.sha256,
            "source": checked.source,
        },
        data_version=dg.DataVersion(checked.sha256),
    )


@dg.asset_check(asset=ORIGINAL_CHECKPOINT, blocking=True)
def original_checkpoint_is_whole(parakeet_home: ParakeetHome) -> dg.AssetCheckResult:
    """The archive is whole and plain, every member is as its CRC-32 says, and its pickle names no program.

    A file that was found so is not read again while its size and time stay as they were.
    """
    build = parakeet_home.build()
    fault = fault_of_original(parakeet_home.root, build.recipe.original, Progress())
    description = f"{build.original_checkpoint}: {fault}" if fault else None
    return dg.AssetCheckResult(passed=fault is None, description=description)
