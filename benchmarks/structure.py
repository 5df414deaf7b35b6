"""How much there is to find one's way in: `python benchmarks/structure.py [CHECKOUT]`.

Counts files, lines, names and comments of the library with its assets and pipelines, of the benchmarks and of the
tests. Measures, in new processes, the CPU seconds that `pipelines.definitions` takes to import and to load, and how
often a recipe is read meanwhile. It runs on any commit, so that two can be compared. Prints a table and one JSON line.
"""

import ast
import io
import json
import os
import statistics
import subprocess
import sys
import tokenize
from pathlib import Path
from typing import Any

CODE = ("parakeet", "assets_defs", "pipelines")
REPEATS = 5

LOAD = """
import json, time
began = time.process_time()
import pipelines.definitions
imported = time.process_time() - began
found = pipelines.definitions.defs
found = found.load_fn() if hasattr(found, "load_fn") else found
found.get_repository_def()
print(json.dumps([imported, time.process_time() - began]))
"""

LOADS_AT_IMPORT = """
import json
import parakeet.recipe_file as module
calls = []
original = module.load_recipe
def counted(name, *arguments, **more):
    calls.append(name)
    return original(name, *arguments, **more)
module.load_recipe = counted
import pipelines.definitions
at_import = len(calls)
found = pipelines.definitions.defs
if hasattr(found, "load_fn"):
    found.load_fn()
print(json.dumps([at_import, len(calls)]))
"""


def names_in(tree: ast.Module) -> int:
    """Functions, classes, methods and module constants: what a reader may have to remember."""
    count = 0
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            count += 1
        elif isinstance(node, ast.ClassDef):
            count += 1 + sum(isinstance(inner, ast.FunctionDef) and inner.name[:2] != "__" for inner in node.body)
        elif isinstance(node, ast.Assign):
            count += sum(isinstance(target, ast.Name) for target in node.targets)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            count += 1
    return count


def comment_lines(text: str) -> int:
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return sum(token.type == tokenize.COMMENT for token in tokens)


def measure(files: list[Path]) -> dict[str, Any]:
    texts = [path.read_text(encoding="utf-8") for path in files]
    lines = sum(text.count("\n") for text in texts)
    names = sum(names_in(ast.parse(text)) for text in texts)
    comments = sum(map(comment_lines, texts))
    lengths = [text.count("\n") for text in texts if text.strip()]
    return {
        "files": len(files),
        "lines": lines,
        "median_file": round(statistics.median(lengths)) if lengths else 0,
        "names": names,
        "lines_per_name": round(lines / max(1, names), 1),
        "comments_per_100_lines": round(100 * comments / max(1, lines), 1),
    }


def tracked(root: Path) -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=root, capture_output=True, text=True, check=True)
    return [root / name for name in listed.stdout.splitlines() if (root / name).is_file()]


def run(root: Path, code: str, home: Path) -> Any:
    environment = {**os.environ, "PYTHONPATH": str(root), "PARAKEET_HOME": str(home)}
    finished = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(finished.stdout.splitlines()[-1])


def main(root: Path) -> None:
    files = tracked(root)
    groups: dict[str, list[Path]] = {"code": [], "benchmarks": [], "tests": []}
    rooms: dict[str, int] = {}
    for path in files:
        parts = path.relative_to(root).parts
        if "benchmarks" in parts[:2]:
            groups["benchmarks"].append(path)
        elif parts[0] in CODE:
            groups["code"].append(path)
            rooms["/".join(parts[:-1])] = rooms.get("/".join(parts[:-1]), 0) + 1
        elif parts[0] == "tests":
            groups["tests"].append(path)
    figures: dict[str, Any] = {name: measure(group) for name, group in groups.items()}
    figures["files_per_room"] = rooms
    home = root / ".no-such-home"
    loads = [run(root, LOAD, home) for _ in range(REPEATS)]
    figures["import_seconds"] = round(statistics.median(one[0] for one in loads), 2)
    figures["definitions_seconds"] = round(statistics.median(one[1] for one in loads), 2)
    figures["recipe_loads"] = dict(zip(("at_import", "in_all"), run(root, LOADS_AT_IMPORT, home), strict=True))
    columns = ("files", "lines", "median_file", "names", "lines_per_name", "comments_per_100_lines")
    print(f"{'':<12}" + "".join(f"{column:>24}" for column in columns))
    for name in groups:
        print(f"{name:<12}" + "".join(f"{figures[name][column]:>24,}" for column in columns))
    print("files per room: " + ", ".join(f"{room} {count}" for room, count in sorted(rooms.items())))
    print(
        f"definitions: imported in {figures['import_seconds']} s, loaded in {figures['definitions_seconds']} s "
        f"(median of {REPEATS}); recipes loaded: {figures['recipe_loads']}"
    )
    print(json.dumps(figures))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve())
