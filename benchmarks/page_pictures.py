"""`python -m benchmarks.page_pictures`: the pictures of the web chat in docs/images, and how fast it is there.

It needs the model of `make demo` with its trace index, playwright and Chromium. The conversations are real: their seeds
are given. It leaves the sessions of your home alone.
"""

import gzip
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import requests

from benchmarks.demands import run_command
from parakeet.errors import ParakeetError
from parakeet.home import home
from parakeet.server.page_routes import page_files

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
TALKS = {
    "spelling": [("How do you spell book?", 1), ("Thank you!", 1)],
    "sums": [("What is 12 plus 7?", 1), ("And what is 19 minus 9?", 1)],
    "capitals": [("What is the capital of Norway?", 1), ("What is the opposite of cold?", 1)],
    "fox-story": [
        ("Hello! My name is Ada.", 4),
        ("What is the capital of Norway?", 4),
        ("Tell me a story about a fox.", 4),
    ],
}
"""Names of sessions, the latest last, and their messages with seeds."""
STORY = 2
"""Number of the exchange that is looked into."""
LOADS = 9


@click.command("page-pictures")
@click.option(
    "--output", type=click.Path(path_type=Path, file_okay=False), default=Path("docs/images"), show_default=True
)
def main(output: Path) -> None:
    """Draw the pictures, then print the bytes of the page and the time of its first paint."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise ParakeetError("playwright is missing. Install it with: pip install 'parakeet-lm[dev]'") from None
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, _server(Path(folder)) as url, sync_playwright() as playwright:
        _talk(url)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for name, picture in _pictures(browser, url):
            (output / f"{name}.png").write_bytes(picture)
            click.echo(output / f"{name}.png")
        paints = [_first_paint(browser, url) for _ in range(LOADS)]
        browser.close()
    content = b"".join(file.content for file in page_files().values())
    figures = {
        "page_bytes": len(content),
        "page_bytes_compressed": sum(len(gzip.compress(file.content)) for file in page_files().values()),
        "first_paint_seconds": {"n": LOADS, "median": statistics.median(paints), "most": max(paints)},
    }
    click.echo(json.dumps(figures))


@contextmanager
def _server(folder: Path) -> Iterator[str]:
    """The address of a server of the present home, whose sessions are others."""
    for path in home().iterdir():
        if path.name != "sessions":
            (folder / path.name).symlink_to(path.resolve())
    command = [sys.executable, "-m", "parakeet.cli", "serve", "--port", "0"]
    environment = {**os.environ, "PARAKEET_HOME": str(folder)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            found = next((match for line in process.stdout if (match := re.search(r"http://\S+", line))), None)
            if found is None:
                raise ParakeetError("The server did not start: see its message above.")
            yield found[0].rstrip("/")
        finally:
            process.terminate()


def _talk(url: str) -> None:
    for name, messages in TALKS.items():
        _post(f"{url}/api/sessions", {"name": name})
        for message, seed in messages:
            _post(
                f"{url}/api/sessions/{name}/replies", {"kind": "reply", "message": message, "settings": {"seed": seed}}
            )
    # A second story beside the first one, which stays the present one.
    _post(f"{url}/api/sessions/{name}/replies", {"kind": "retry", "exchange": STORY})
    requests.patch(f"{url}/api/sessions/{name}", json={"at": STORY}, timeout=60).raise_for_status()


def _post(url: str, body: dict[str, Any]) -> None:
    requests.post(url, json=body, timeout=60).raise_for_status()


def _pictures(browser: "Browser", url: str) -> Iterator[tuple[str, bytes]]:
    for name, width, height, scheme in [
        ("page-light", 1280, 800, "light"),
        ("page-dark", 1280, 800, "dark"),
        ("page-phone-light", 390, 844, "light"),
        ("page-phone-dark", 390, 844, "dark"),
    ]:
        with _page(browser, url, width, height, scheme) as page:
            yield name, page.screenshot()
    with _page(browser, url, 1280, 800, "light") as page:
        story = page.locator("article").nth(STORY)
        story.locator("[data-action=tokens]").click()
        story.locator(".token.open, .token.rare").nth(1).focus()
        page.wait_for_selector("#alternatives:not([hidden])")
        yield "page-tokens", page.screenshot()
        page.keyboard.press("Escape")
        story.locator("[data-action=trace]").click()
        page.wait_for_selector("#panel figure")
        page.locator("#thread").evaluate("at => at.scrollTop = at.scrollHeight")
        yield "page-trace", page.screenshot()


@contextmanager
def _page(browser: "Browser", url: str, width: int, height: int, scheme: Any) -> "Iterator[Page]":
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, device_scale_factor=1.5,
        has_touch=width < 600, is_mobile=width < 600,
    )  # fmt: skip
    page = context.new_page()
    page.goto(f"{url}/#{list(TALKS)[-1]}")
    page.wait_for_selector(f"article:nth-child({STORY + 1})")
    page.wait_for_selector("#sessions a[aria-current]", state="attached")
    yield page
    context.close()


def _first_paint(browser: "Browser", url: str) -> float:
    """Seconds from asking for the page to the first text on the screen, with nothing cached."""
    with _page(browser, url, 1280, 800, "light") as page:
        milliseconds: float = page.evaluate(
            "performance.getEntriesByName('first-contentful-paint').map((entry) => entry.startTime)[0]"
        )
    return milliseconds / 1000


if __name__ == "__main__":
    run_command(main)
