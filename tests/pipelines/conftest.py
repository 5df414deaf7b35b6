"""What one test's instance of Dagster leaves behind is nothing to the next."""

from collections.abc import Iterator

import pytest
from dagster._core.storage.defs_state.base import set_defs_state_storage


@pytest.fixture(autouse=True)
def no_instance_left() -> Iterator[None]:
    """Dagster keeps the last instance's storage in a context variable, which a fixture cannot always reset."""
    with set_defs_state_storage(None):
        yield
