"""Declarative automation: which assets Dagster asks for after which event."""

from collections.abc import Iterator

import dagster as dg
import pytest

from parakeet.recipe_file import load_recipe
from parakeet.stages import stages_of
from pipelines.definitions import make_definitions

DEMO = load_recipe("demo")
DEFS = make_definitions(DEMO)
GRAPH = DEFS.get_repository_def().asset_graph


class Watched:
    """Ticks of the automation over an instance in which every asset was made once and passed its checks."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self._cursor = None
        for stage in stages_of(DEMO):
            self.make(stage.name)
        for key in GRAPH.asset_check_keys:
            self.check(key, True)
        self.asked()

    def make(self, name: str, version: str = "1") -> None:
        event = dg.AssetMaterialization(dg.AssetKey(name), tags={"dagster/data_version": version})
        self.instance.report_runless_asset_event(event)

    def check(self, key: dg.AssetCheckKey, passed: bool) -> None:
        result = dg.AssetCheckEvaluation(
            asset_key=key.asset_key, check_name=key.name, passed=passed, blocking=True, metadata={}
        )
        self.instance.report_runless_asset_event(result)

    def asked(self) -> set[str]:
        """What is asked for at the next tick."""
        result = dg.evaluate_automation_conditions(DEFS, instance=self.instance, cursor=self._cursor)
        self._cursor = result.cursor  # type: ignore[assignment]
        return {str(part.key.path[-1]) for part in result.results if result.get_num_requested(part.key)}


@pytest.fixture
def watched() -> Iterator[Watched]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Watched(instance)


def test_a_new_checkpoint_is_evaluated_and_then_reported(watched: Watched) -> None:
    assert watched.asked() == set()
    watched.make("checkpoint", "2")
    # The report, which follows both, is asked for in the same run, after them.
    assert watched.asked() == {"evaluation", "memorisation", "report"}
    assert watched.asked() == set()


def test_nothing_is_asked_for_past_a_failed_check(watched: Watched) -> None:
    for key in GRAPH.asset_check_keys:
        if key.asset_key.path == ["checkpoint"]:
            watched.check(key, False)
    watched.make("checkpoint", "2")
    assert watched.asked() == set()


@pytest.mark.parametrize("name", ["documents", "clean_documents", "tokenizer", "token_shards", "trace_index"])
def test_new_text_alone_asks_for_nothing(watched: Watched, name: str) -> None:
    watched.make(name, "2")
    assert watched.asked() == set()


def test_a_new_packing_plan_is_followed_by_the_data_card(watched: Watched) -> None:
    watched.make("packing_plan", "2")
    assert watched.asked() == {"data_card"}


@pytest.mark.parametrize("name", ["evaluation", "memorisation"])
def test_a_new_measurement_is_followed_by_the_report(watched: Watched, name: str) -> None:
    watched.make(name, "2")
    assert watched.asked() == {"report"}


def test_nothing_trains_releases_or_compares_by_itself(watched: Watched) -> None:
    for name in ("packing_plan", "checkpoint", "evaluation", "memorisation", "report", "release"):
        watched.make(name, "2")
    assert not watched.asked() & {"checkpoint", "release", "comparison", "promotion", "original_model"}
