"""`python -m benchmarks.install`: seconds that pip takes for each extra, and what resolves for each Python version.

A dry run resolves and downloads; `--install` also installs, into an environment that is removed afterwards. Nothing of
the current environment is used or changed.
"""

import json
import os
import resource
import subprocess
import sys
import time
import tomllib
import venv
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from benchmarks.demands import at_most, print_demands, run_command

ROOT = Path(__file__).parents[1]
MOST_CPU_SECONDS = 60.0
"""For the dry run of [dev]."""


@click.command("install")
@click.option("--extra", "extras", multiple=True, metavar="NAME", help="May be repeated.  [default: none, then each]")
@click.option("--python", "versions", multiple=True, metavar="3.N", help="Resolve for other Pythons, wheels only.")
@click.option("--torch", default="", metavar="VERSION", help="Resolve with this version of torch, as 2.11.*.")
@click.option("--install", is_flag=True, help="Install, too: gigabytes, and minutes for each extra.")
def main(extras: tuple[str, ...], versions: tuple[str, ...], torch: str, install: bool) -> None:
    """Time pip for each extra. A table, then one JSON line."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    rows = []
    with TemporaryDirectory(prefix="parakeet-install-") as folder:
        python = _environment(Path(folder) / "resolver")
        _pip(python, "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, str(ROOT))
        (wheel,) = Path(folder).glob("*.whl")
        click.echo(f"{'extra':<14}{'Python':>8}{'seconds':>9}{'CPU':>8}{'packages':>10}{'installed in':>14}")
        for version in versions or ("",):
            for extra in extras or ("", *project["optional-dependencies"]):
                wanted = [f"{wheel}[{extra}]" if extra else str(wheel), *([f"torch=={torch}"] if torch else [])]
                row = {"extra": extra, "python": version} | _resolve(python, wanted, version, Path(folder))
                if install and not row["refused"]:
                    began = time.perf_counter()
                    with TemporaryDirectory(dir=folder) as target:
                        _pip(_environment(Path(target)), "install", "--quiet", *wanted)
                    row["installed"] = time.perf_counter() - began
                rows.append(row)
                _print(row)
    cpu = next((row["cpu"] for row in rows if row["extra"] == "dev" and not row["refused"]), None)
    demand = at_most("CPU of the dry run of [dev]", cpu, MOST_CPU_SECONDS, " s")
    print_demands({"benchmark": "install", "rows": rows}, [demand])


def _environment(folder: Path) -> Path:
    venv.create(folder, with_pip=True)
    return folder / "bin" / "python"


def _resolve(python: Path, wanted: Sequence[str], version: str, folder: Path) -> dict[str, Any]:
    report = folder / "report.json"
    report.unlink(missing_ok=True)
    # For another Python pip takes wheels only, and insists on a target.
    other = ["--python-version", version, "--only-binary=:all:", "--target", str(folder / "target")] if version else []
    before, began = _cpu_seconds(), time.perf_counter()
    try:
        _pip(python, "install", "--dry-run", "--ignore-installed", "--quiet", "--report", str(report), *other, *wanted)
        refused = ""
    except click.ClickException as error:
        refused = error.message
    seconds, cpu = time.perf_counter() - began, _cpu_seconds() - before
    found = json.loads(report.read_text(encoding="utf-8"))["install"] if report.exists() else []
    torch = [one["metadata"]["version"] for one in found if one["metadata"]["name"] == "torch"]
    sizes = {"packages": len(found), "torch": "".join(torch), "installed": None}
    return {"seconds": seconds, "cpu": cpu, "refused": refused} | sizes


def _pip(python: Path, *arguments: str) -> None:
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    command = [str(python), "-m", "pip", *arguments]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True)
    if finished.returncode != 0:
        lines = [line for line in finished.stderr.splitlines() if line.startswith("ERROR")] or [finished.stderr.strip()]
        raise click.ClickException(" ".join(lines)[:500])


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _print(row: dict[str, Any]) -> None:
    version = row["python"] or ".".join(map(str, sys.version_info[:2]))
    begin = f"{row['extra'] or '(none)':<14}{version:>8}{row['seconds']:>9.1f}{row['cpu']:>8.1f}"
    if row["refused"]:
        click.echo(f"{begin}  {row['refused']}")
        return
    installed = "" if row["installed"] is None else f"{row['installed']:.0f} s"
    click.echo(f"{begin}{row['packages']:>10}{installed:>14}")


if __name__ == "__main__":
    run_command(main)
