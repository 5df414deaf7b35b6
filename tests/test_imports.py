"""Which way the arrows run, and what must never be imported early."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def imported(path: Path) -> set[str]:
    """Top-level packages that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


def modules_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sorted(sys.modules))"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(finished.stdout.split())


@pytest.mark.parametrize("path", sorted((ROOT / "parakeet").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_library_knows_nothing_of_dagster(path: Path) -> None:
    forbidden = imported(path) & {"dagster", "assets_defs", "pipelines"}
    # The one exception: `parakeet build` imports pipelines inside its function.
    assert forbidden <= ({"pipelines"} if path.as_posix().endswith("parakeet/cli/build.py") else set())


@pytest.mark.parametrize("path", sorted((ROOT / "assets_defs").glob("*.py")), ids=lambda p: p.name)
def test_assets_know_nothing_of_pipelines(path: Path) -> None:
    assert "pipelines" not in imported(path)


FLOORS = (
    ("cli", "demo", "status"),
    (
        "benchmarks",
        "clean",
        "judgement",
        "retention",
        "plan",
        "plan_files",
        "plan_sources",
        "recipe_changes",
        "recipe_reference",
        "export",
        "api",
        "server",
        "reproduction",
        "retraining",
        "space",
        "studies",
    ),
    ("stages",),
    ("chat", "evaluation", "gates", "release", "training", "download", "trace", "memorisation", "report"),
    ("generation", "data", "model"),
    (
        "template",
        "tokenizer",
        "sanitise",
        "artifact",
        "recipe",
        "recipe_file",
        "recipe_sources",
        "sampling_settings",
        "benchmark_files",
        "notify",
    ),
)
FOUNDATIONS = (
    "api_key",
    "api_results",
    "earlier",
    "formatting",
    "intervals",
    "lineage",
    "learning_rate",
    "stage",
    "pages",
    "page_server",
    "hashes",
    "home",
    "dagster_history",
    "command_line",
    "locking",
    "machine",
    "names",
    "new_files",
    "progress",
    "provenance",
    "conversation",
    "errors",
    "failures",
    "torch_archive",
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms} | dict.fromkeys(
    FOUNDATIONS, len(FLOORS) - 1
)


def rooms_imported(path: Path) -> set[str]:
    """Rooms of parakeet that a file imports, anywhere in it."""
    modules = [node.module for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
               if isinstance(node, ast.ImportFrom) and node.module]  # fmt: skip
    return {module.split(".")[1] for module in modules if module.startswith("parakeet.")}


@pytest.mark.parametrize("path", sorted((ROOT / "parakeet").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_room_of_the_library_reaches_up(path: Path) -> None:
    room = path.relative_to(ROOT / "parakeet").parts[0].removesuffix(".py")
    if room == "__init__":
        return
    upward = {other for other in rooms_imported(path) if FLOOR[other] < FLOOR[room]}
    assert upward == set()


def modules_imported(path: Path) -> Iterator[str]:
    """Modules of this project that a file imports, anywhere in it but under `if TYPE_CHECKING`."""
    waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            waiting += node.orelse
        else:
            waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from parakeet.data import tasks` imports a module, `from parakeet.data.tasks import count` a name.
            yield from (name if (name := f"{node.module}.{alias.name}") in MODULES else node.module
                        for alias in node.names)  # fmt: skip


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {
    module_name(path): path
    for folder in ("parakeet", "assets_defs", "pipelines")
    for path in sorted((ROOT / folder).rglob("*.py"))
}


def test_no_file_imports_one_that_imports_it() -> None:
    """Neither directly nor through others. An import inside a function counts: it hides a cycle, it does not cut it."""
    graph = {name: {other for other in modules_imported(path) if other in MODULES} for name, path in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_no_two_rooms_use_each_other() -> None:
    used = {
        (name.split(".")[1], other.split(".")[1])
        for name, path in MODULES.items()
        for other in modules_imported(path)
        if name.startswith("parakeet.") and other.startswith("parakeet.")
    }
    assert {(one, other) for one, other in used if one < other and (other, one) in used} == set()


def test_definitions_load_without_torch_or_datatrove() -> None:
    assert not modules_after("import pipelines.definitions") & {"torch", "datatrove", "bitsandbytes", "matplotlib"}


def test_help_is_cheap_and_chat_and_models_need_no_dagster() -> None:
    assert not modules_after("import parakeet.cli") & {"torch", "dagster", "pydantic", "pyarrow", "rich", "tiktoken"}
    chat = "import parakeet.chat.launch, parakeet.chat.terminal, parakeet.chat.session, parakeet.generation.engine"
    assert not modules_after(f"{chat}, parakeet.model.transformer") & {
        "dagster",
        "datatrove",
        "pyarrow",
        "bitsandbytes",
    }
    assert not modules_after("import parakeet.release.verify") & {"dagster", "torch"}
