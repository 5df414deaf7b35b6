"""`parakeet pages`: what is served, and what is not."""

import http.client
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from parakeet.errors import ParakeetError
from parakeet.page_server import page_address, page_server


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("pages") / "home"
    for name in ("report/ab12-0/report.html", "data_card/cd34-0/data_card.html", "releases/ef56-1/loss_curve.png",
                 "releases/ef56-1/model.safetensors", "recipe.yaml", "documents/ab12-0/secret.html"):  # fmt: skip
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(f"content of {name}", encoding="utf-8")
    (home.parent / "outside.html").write_text("outside", encoding="utf-8")
    (home / "report" / "ab12-0" / "link.html").symlink_to(home.parent / "outside.html")
    return home


@pytest.fixture(scope="module")
def port(home: Path) -> Iterator[int]:
    with page_server(home, 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def ask(port: int, path: str, method: str = "GET", host: str | None = None) -> tuple[int, str, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, headers={"Host": host} if host else {})
    response = connection.getresponse()
    return response.status, response.read().decode(), response.headers


def test_pages_and_pictures_are_served_and_listed(home: Path, port: int) -> None:
    page = home / "report" / "ab12-0" / "report.html"
    link = urlsplit(page_address(page, home)).path
    status, text, headers = ask(port, link)
    assert (status, text) == (200, "content of report/ab12-0/report.html")
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert ask(port, "/releases/ef56-1/loss_curve.png")[2]["Content-Type"] == "image/png"
    assert ask(port, f"{link}?x=1#top")[0] == 200
    status, text, _ = ask(port, "/")
    assert status == 200
    assert link in text
    assert "secret" not in text
    assert ask(port, link, "HEAD")[:2] == (200, "")


@pytest.mark.parametrize(
    "path",
    ["/recipe.yaml", "/releases/ef56-1/model.safetensors", "/documents/ab12-0/secret.html", "/../outside.html",
     "/report/../../outside.html", "/report/%2e%2e/%2e%2e/outside.html", "/report/ab12-0/link.html",
     "/report/ab12-0/none.html", "/report/ab12-0/report.html/", "/report//report.html", "//report/", "/%00"],
)  # fmt: skip
def test_nothing_else_is_served(port: int, path: str) -> None:
    assert ask(port, path)[0] == 404


def test_other_methods_and_other_names_of_this_machine_are_refused(port: int) -> None:
    assert ask(port, "/", "POST")[0] == 501
    assert ask(port, "/", host="evil.example:3042")[0] == 403
    assert ask(port, "/", host=f"localhost:{port}")[0] == 200


def test_a_port_in_use_is_one_message(home: Path, port: int) -> None:
    with pytest.raises(ParakeetError, match=f"port {port}: Address already in use. If `parakeet pages` runs already"):
        page_server(home, port)


def test_a_page_elsewhere_has_the_address_of_its_file(home: Path) -> None:
    assert page_address(home.parent / "outside.html", home).startswith("file:///")
