"""Everything that Dagster loads. Imports neither torch nor datatrove: it is loaded by every process of Dagster."""

import dagster as dg

import assets_defs
from assets_defs.home import ParakeetHome
from assets_defs.pipes import ObservingMessageReader
from pipelines import jobs, schedules, sensors

TERMINATION_TIMEOUT_SECONDS = 300
"""How long a trainer may take to save when its run is ended; Dagster's 20 s would leave it behind as an orphan."""

defs = dg.Definitions(
    assets=dg.load_assets_from_package_module(assets_defs),
    asset_checks=dg.load_asset_checks_from_package_module(assets_defs),
    jobs=[jobs.prepare_data, jobs.train_model, jobs.full_build, jobs.import_original],
    schedules=[schedules.weekly_retraining],
    sensors=[sensors.new_source_files, sensors.lost_runs],
    resources={
        # At launch: `parakeet build` hands its recipe over in the run's config.
        "parakeet_home": ParakeetHome.configure_at_launch(),
        "trainer": dg.PipesSubprocessClient(
            message_reader=ObservingMessageReader(), termination_timeout_seconds=TERMINATION_TIMEOUT_SECONDS
        ),
    },
    # Every stage that needs isolation starts processes of its own; one more per step would cost seconds each.
    executor=dg.in_process_executor,
)
