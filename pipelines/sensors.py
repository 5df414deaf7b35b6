"""New source files."""

import hashlib
import json

import dagster as dg

from parakeet.data.reading.stage import local_files
from parakeet.errors import ParakeetError
from parakeet.home import home
from parakeet.stages import active_recipe
from pipelines.jobs import prepare_data


@dg.sensor(
    job=prepare_data,
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Prepares the data again when a file of the active recipe's sources is new or was changed.",
)
def new_source_files(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    try:
        paths = local_files(list(active_recipe(home()).sources)).values()
        files = [(str(path), path.stat()) for path in paths]
    except (ParakeetError, OSError) as error:
        return dg.SkipReason(f"The sources cannot be read: {error}")
    seen = json.dumps([(path, status.st_size, status.st_mtime_ns) for path, status in files])
    digest = hashlib.sha256(seen.encode()).hexdigest()
    if not files:
        return dg.SkipReason("The active recipe reads no files.")
    if context.cursor is None:
        return dg.SensorResult(skip_reason=dg.SkipReason(f"Watching {len(files)} files from now on."), cursor=digest)
    if context.cursor == digest:
        return dg.SkipReason(f"No change in {len(files)} files.")
    return dg.SensorResult(run_requests=[dg.RunRequest(run_key=digest)], cursor=digest)
