"""The web chat, in a real Chromium: every feature, in light and dark, wide and narrow."""

import gzip
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from parakeet.conversation import Turn
from parakeet.release.verify import TRAINING_MANIFEST_FILE, write_sums
from parakeet.server.guards import LOOPBACK_NAMES, Access
from parakeet.tokenizer import Tokenizer

from ..trace.small_texts import write_store
from .conftest import RunningServer, running_server

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Locator, Page, ViewportSize

KEY = "a-key-for-the-page"
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
WIDE: "ViewportSize" = {"width": 1280, "height": 800}
PHONE: "ViewportSize" = {"width": 390, "height": 844}
STORY = "Tell me a story about a fox."
ENDLESS = {"repetition_penalty": "0.01", "rolling": "on", "max_tokens": "1000000", "temperature": "0"}
"""A reply that repeats itself until it is stopped."""


@pytest.fixture(scope="module")
def site(
    server: RunningServer,
    served_model: Path,
    conversations: list[tuple[Turn, ...]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[RunningServer]:
    """A server with a key, whose model has an index of the text that it was trained on."""
    root = tmp_path_factory.mktemp("page_root")
    turns = [[(turn.role, turn.content) for turn in each] for each in conversations]
    question = [{"role": "user", "content": STORY}]
    asked = server.client.post("/v1/chat/completions", json={"messages": question, "temperature": 0, "max_tokens": 40})
    # So that a reply stands in the training text.
    turns.insert(0, [("Human", STORY), ("Assistant", f"{asked.json()['choices'][0]['message']['content']} The end.")])
    store = write_store(root, Tokenizer.load(served_model), turns[:350], turns[350:])
    folder = Path(shutil.copytree(served_model, tmp_path_factory.mktemp("page_model") / "tiny"))
    shutil.copyfile(store / TRAINING_MANIFEST_FILE, folder / TRAINING_MANIFEST_FILE)
    write_sums(folder)
    with running_server(folder, root, access=Access(KEY.encode(), LOOPBACK_NAMES)) as running:
        running.client.headers["authorization"] = f"Bearer {KEY}"
        yield running


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright, which drives the browser, is missing")
    if not Path(CHROMIUM).exists():
        pytest.skip(f"there is no browser at {CHROMIUM}: install chromium, or set CHROMIUM")
    with playwright.sync_playwright() as found:
        browser = found.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield browser
        browser.close()


class Visit:
    """A tab of the page, and what must hold in each."""

    def __init__(self, context: "BrowserContext", site: RunningServer) -> None:
        self.context, self.site = context, site
        self.faults: list[str] = []
        self.page = context.new_page()
        self.page.set_default_timeout(20_000)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", lambda message: self._console(message.text))
        self.page.on("request", lambda request: self._request(request.url))

    def _console(self, text: str) -> None:
        # That a request was refused is what some tests are for.
        if "Failed to load resource" not in text:
            self.faults.append(text)

    def _request(self, url: str) -> None:
        if not url.startswith((self.site.url, "data:", "blob:")):
            self.faults.append(f"the page asked for {url}")

    def open(self, fragment: str = "") -> "Page":
        self.page.goto(f"{self.site.url}/{fragment}")
        self.page.wait_for_selector("#model:not(:empty)", state="attached")
        return self.page

    def set(self, **values: str) -> None:
        """Change settings as a person does."""
        self.page.click("header [data-action=settings]")
        for name, value in values.items():
            field = self.page.locator(f"#setting-{name}")
            if value in ("on", "off"):
                field.set_checked(value == "on")
            else:
                field.fill(value)
                field.blur()
        self.page.click("[data-action=close-panel]")

    def begin(self, message: str) -> "Locator":
        """Send a message; the exchange."""
        before = self.page.locator("article").count()
        self.page.fill("#message", message)
        self.page.press("#message", "Enter")
        return self.page.locator("article").nth(before)

    def say(self, message: str) -> "Locator":
        """Send a message and wait for the reply; the exchange."""
        exchange = self.begin(message)
        self.finished()
        return exchange

    def finished(self) -> None:
        self.page.wait_for_selector("#send[data-action=send]")
        self.page.wait_for_selector("article:not([aria-busy]) .reply .tools")

    @property
    def name(self) -> str:
        """Of the session."""
        return str(self.page.inner_text("#title"))

    def stored(self) -> Any:
        """The session as the server has it."""
        return self.site.client.get(f"/api/sessions/{self.name}").json()


Visitor = Callable[..., Visit]


@pytest.fixture
def visit(browser: "Browser", site: RunningServer) -> Iterator[Visitor]:
    visits: list[Visit] = []

    def visit(viewport: "ViewportSize" = WIDE, key: str = KEY, **more: Any) -> Visit:
        context = browser.new_context(viewport=viewport, permissions=["clipboard-read", "clipboard-write"], **more)
        if key:
            context.add_init_script(f"sessionStorage.setItem('key', {json.dumps(key)})")
        visits.append(Visit(context, site))
        return visits[-1]

    yield visit
    faults = [fault for each in visits for fault in each.faults]
    for each in visits:
        each.context.close()
    for row in site.client.get("/api/sessions").json()["sessions"]:
        assert site.client.delete(f"/api/sessions/{row['name']}").status_code == 204
    assert faults == []


def text_of(exchange: "Locator") -> str:
    return str(exchange.locator(".reply .text").inner_text())


def test_the_files_are_few_small_and_only_for_this_page(site: RunningServer) -> None:
    with httpx2.Client(base_url=site.url) as client:  # without the key
        index = client.get("/")
        links = set(re.findall(r'(?:href|src)="(/[^"]+)"', index.text))
        imports = re.findall(r'from "\.(/[^"]+)"', client.get("/page/app.js").text)
        links |= {f"/page{each}" for each in imports}
        files = {link: client.get(link) for link in links}
        assert all(each.status_code == 200 for each in files.values())
        folder = Path(__file__).parents[2] / "parakeet" / "server" / "page"
        assert {Path(link).name for link in links} | {"index.html"} == {path.name for path in folder.iterdir()}
        assert sum(len(each.content) for each in [index, *files.values()]) < 100_000
        for each in [index, *files.values()]:
            policy = each.headers["content-security-policy"]
            assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'")
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            assert each.headers["cache-control"] == "no-cache"
        assert files["/page/app.js"].headers["content-type"] == "text/javascript; charset=utf-8"
        again = client.get("/", headers={"if-none-match": index.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert client.head("/").status_code == 200
        with client.stream("GET", "/", headers={"accept-encoding": "gzip"}) as answer:
            assert gzip.decompress(b"".join(answer.iter_raw())) == index.content
        assert client.get("/page/none.js").json()["error"]["message"]
        assert site.client.get("/page/..%2fapp.py").status_code == 404


def test_the_key_is_asked_for_once_in_a_tab(visit: Visitor) -> None:
    tab = visit(key="")
    page = tab.page
    page.goto(tab.site.url)
    page.fill("#answer", "a wrong one")
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog p:has-text('was not accepted')")
    page.fill("#answer", KEY)
    page.keyboard.press("Enter")
    page.wait_for_selector("#model:not(:empty)")
    tab.open()
    assert not page.locator("dialog[open]").count()
    assert KEY not in page.content()


def test_the_page_waits_for_a_model_that_is_loaded(visit: Visitor) -> None:
    tab = visit()
    page = tab.page
    page.route("**/health", lambda route: route.fulfill(status=503, json={"status": "loading"}))
    page.goto(tab.site.url)
    page.wait_for_selector("#banner:has-text('The server is loading its model.')")
    page.fill("#message", "Hello")
    page.press("#message", "Enter")
    page.wait_for_selector("#toast:has-text('Your message stays here.')")
    page.unroute("**/health")
    page.wait_for_selector("#model:not(:empty)")
    assert page.locator("#banner").is_hidden()
    assert page.input_value("#message") == "Hello"


def test_a_conversation_with_branches(visit: Visitor) -> None:
    tab = visit()
    page = tab.open()
    field = page.locator("#message")
    field.fill("one")
    field.press("Shift+Enter")
    field.press_sequentially("two")
    # The Enter that ends a composed word does not send.
    field.dispatch_event("keydown", {"key": "Enter", "isComposing": True})
    assert field.input_value() == "one\ntwo"
    assert not page.locator("article").count()
    field.fill("")
    first = tab.say("What is the capital of France?")
    [stored] = tab.stored()["exchanges"]
    assert first.locator(".bubble").inner_text() == "What is the capital of France?"
    assert text_of(first) == stored["reply"].strip()
    assert re.search(rf"tokens/s · first after [\d.]+ s · seed {stored['seed']}", first.inner_text())
    used = tab.stored()["context"]["used"]
    assert page.inner_text("#used") == f"{used} of 640 tokens"
    assert page.inner_text("#live").strip() == stored["reply"].strip()
    page.click("[data-action=copy-reply]")
    assert page.evaluate("navigator.clipboard.readText()") == stored["reply"]

    # Another reply is kept beside the first, and the same again says that it is the same.
    page.click("article [data-action=retry]")
    page.wait_for_selector(".pager:has-text('2/2')")
    tab.finished()
    page.click("[data-action=branch][data-step='-1']")
    page.wait_for_selector(".pager:has-text('1/2')")
    assert text_of(first) == stored["reply"].strip()
    page.click("article [data-action=again]")
    page.wait_for_selector("text=the same, word for word")
    assert page.locator(".pager").inner_text().strip() == "3/3"
    assert [each["seed"] == stored["seed"] for each in tab.stored()["exchanges"]] == [True, False, True]
    # By key there and back: the arrow that was pressed keeps the focus.
    page.focus(".pager [data-step='-1']")
    for shown in ("2/3", "1/3", "2/3", "3/3"):
        page.keyboard.press("Enter")
        page.wait_for_selector(f".pager:has-text('{shown}')")

    # A changed message begins a branch of its own, from which the conversation goes on.
    page.click("article [data-action=edit]")
    page.fill(".editing textarea", "Spell the word tree.")
    page.press(".editing textarea", "Enter")
    tab.finished()
    assert page.locator(".message .pager").inner_text().strip() == "2/2"
    tab.say("Thank you.")
    page.locator(".message .pager [data-step='-1']").first.click()
    page.wait_for_selector(".message .pager:has-text('1/2')")
    assert page.locator("article").count() == 1
    page.locator(".message .pager [data-step='1']").first.click()
    page.wait_for_selector("article:nth-child(2)")
    tab.open(f"#{tab.name}")  # it is the same after a reload
    page.wait_for_selector("article:nth-child(2)")
    assert page.locator(".bubble").all_inner_texts() == ["Spell the word tree.", "Thank you."]

    # What another window adds is there when this one is looked at again.
    tab.site.events(f"/api/sessions/{tab.name}/replies", {"kind": "reply", "message": "Who are you?"})
    page.evaluate("dispatchEvent(new Event('focus'))")
    page.wait_for_selector("article:nth-child(3)")


def test_settings_and_a_cut_reply_that_goes_on(visit: Visitor) -> None:
    tab = visit()
    page = tab.open()
    page.click("header [data-action=settings]")
    released = {each["name"]: each["value"] for each in tab.site.client.get("/api/about").json()["settings"]}
    assert page.input_value("#setting-temperature") == str(released["temperature"])
    page.fill("#system", "Be brief.")
    page.locator("#system").blur()
    page.fill("#setting-temperature", "11")
    page.locator("#setting-temperature").blur()
    assert "a number from 0 to 10" in page.inner_text("#panel")
    page.click("[data-action=close-panel]")
    tab.set(temperature="0", max_tokens="3", seed=str(2**64 - 1), stop="xyzzy\nplugh")
    exchange = tab.say(STORY)
    assert "cut at 3 tokens" in exchange.inner_text()
    [stored] = tab.stored()["exchanges"]
    assert tab.stored()["system"] == "Be brief."
    chosen = {"temperature": 0, "max_tokens": 3, "stop": ["xyzzy", "plugh"]}
    assert stored["settings"].items() >= chosen.items()
    assert stored["seed"] == 2**64 - 1
    page.click("header [data-action=settings]")
    page.click("[data-action=reset]")
    assert page.input_value("#setting-max_tokens") == str(released["max_tokens"])
    assert page.is_disabled("[data-action=reset]")
    page.keyboard.press("Escape")
    exchange.locator("[data-action=continue]").click()
    tab.finished()
    [continued] = tab.stored()["exchanges"]
    assert continued["reply"].startswith(stored["reply"])
    assert len(continued["reply"]) > len(stored["reply"])
    assert text_of(exchange) == continued["reply"].strip()


def test_stopping_and_nothing_written_is_lost(visit: Visitor) -> None:
    tab = visit()
    page = tab.open()
    tab.set(**ENDLESS)
    exchange = tab.begin("Tell me a story.")
    page.wait_for_selector("article[aria-busy] .text:not(:empty)")
    page.fill("#message", "half a mess")
    page.keyboard.press("Escape")
    tab.finished()
    assert "stopped" in exchange.locator(".ending").inner_text()
    [stored] = tab.stored()["exchanges"]
    assert stored["finish_reason"] == "interrupted"
    assert page.input_value("#message") == "half a mess"
    tab.open(f"#{tab.name}")
    page.wait_for_selector("article")
    assert page.input_value("#message") == "half a mess"

    # Another conversation has its own field, and a reply goes on while one looks elsewhere.
    tab.set(**ENDLESS)
    tab.begin("And another one.")
    page.wait_for_selector("article[aria-busy] .text:not(:empty)")
    name = tab.name
    page.keyboard.press("Alt+n")
    assert (page.inner_text("#title"), page.input_value("#message")) == ("New conversation", "")
    page.click(f"#sessions li[data-name='{name}'] a")
    page.wait_for_selector("article[aria-busy]")
    page.click("#send")
    tab.finished()

    # A server that is away is said, and back.
    tab.context.set_offline(True)
    page.fill("#message", "Are you there?")
    page.press("#message", "Enter")
    page.wait_for_selector("#banner:has-text('does not answer')")
    page.wait_for_selector("#send[data-action=send]")
    assert page.input_value("#message") == "Are you there?"
    page.click("#banner button")
    page.wait_for_selector("#banner:has-text('Next try in')")
    tab.context.set_offline(False)
    page.wait_for_selector("#banner", state="hidden")
    page.wait_for_selector("#toast:has-text('Connected again')")
    assert page.input_value("#message") == "Are you there?"


def test_sessions(visit: Visitor, tmp_path: Path) -> None:
    tab = visit()
    page = tab.open()
    page.wait_for_selector("#sessions-note:has-text('appear here')")
    tab.say("A word about turnips.")
    first = tab.name
    page.click("#sidebar [data-action=new]")
    tab.say("Who are you?")
    second = tab.name
    rows = page.locator("#sessions li")
    assert rows.count() == 2
    page.fill("#search", "turnips")
    page.wait_for_selector("#sessions li:nth-child(2)", state="detached")
    assert rows.get_attribute("data-name") == first
    page.fill("#search", "nothing has this")
    page.wait_for_selector("#sessions-note:has-text('No conversation')")
    page.fill("#search", "")
    page.wait_for_selector("#sessions li:nth-child(2)")

    page.click("#session-menu")
    page.click("#menu button:has-text('Rename')")
    page.fill("#answer", "not a name")
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog .problem:has-text('not a session name')")
    page.fill("#answer", "mine")
    page.keyboard.press("Enter")
    page.wait_for_selector("#sessions li[data-name=mine]")
    assert (tab.name, page.url.split("#")[1]) == ("mine", "mine")
    assert tab.site.client.get(f"/api/sessions/{second}").status_code == 404

    page.click("#session-menu")
    with page.expect_download() as download:
        page.click("#menu button:has-text('Export')")
    exported = tmp_path / download.value.suggested_filename
    download.value.save_as(exported)
    assert exported.name == "mine.jsonl"
    assert exported.read_bytes() == (tab.site.root / "sessions" / "mine.jsonl").read_bytes()

    page.click("#session-menu")
    page.keyboard.press("ArrowUp")  # from the first entry to the last
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")  # not after all
    assert rows.count() == 2
    page.click("#session-menu")
    page.click("#menu button:has-text('Delete')")
    page.click("dialog .danger")
    page.wait_for_selector("#sessions li[data-name=mine]", state="detached")
    assert page.inner_text("#title") == "New conversation"

    page.set_input_files("#file", exported)
    page.wait_for_selector("#title:text-is('mine')")
    assert page.locator(".bubble").all_inner_texts() == ["Who are you?"]
    exported.write_text("no session")
    page.set_input_files("#file", exported)
    page.wait_for_selector("#toast:has-text('not a session')")


def test_tokens_with_alternatives_and_where_a_reply_is_from(visit: Visitor) -> None:
    tab = visit()
    page = tab.open()
    tab.set(temperature="0", max_tokens="40")
    exchange = tab.say(STORY)
    [stored] = tab.stored()["exchanges"]
    exchange.locator("[data-action=tokens]").click()
    tokens = exchange.locator(".token")
    tokens.first.wait_for()
    assert "".join(tokens.all_text_contents()) == stored["reply"]
    # By keyboard: Tab comes to one token, the arrows go to the others.
    tokens.first.focus()
    page.keyboard.press("ArrowRight")
    card = page.locator("#alternatives")
    assert card.locator("li").count() == 5
    shares = [float(each.rstrip("%")) for each in card.locator(".n").all_inner_texts()]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) <= 100.3
    assert shares[0] > 0
    assert card.locator("li").first.get_attribute("class") == "taken"  # greedy: the likeliest is what it said
    page.keyboard.press("Escape")
    assert card.is_hidden()
    tokens.nth(3).hover()
    assert card.is_visible()
    exchange.locator("[data-action=tokens]").click()
    assert card.is_hidden()
    assert text_of(exchange) == stored["reply"].strip()

    exchange.locator("[data-action=trace]").click()
    marks = exchange.locator("mark")
    marks.first.wait_for()
    trace = tab.site.client.post("/v1/trace", json={"input": stored["reply"]}).json()
    covered = {at for span in trace["spans"] for at in range(span["start"], span["end"])}
    assert "".join(marks.all_text_contents()) == "".join(stored["reply"][at] for at in sorted(covered))
    panel = page.locator("#panel")
    assert "stand word for word in the training text" in panel.inner_text()
    assert "not proof of cause" in panel.inner_text()
    marks.last.focus()
    page.keyboard.press("Enter")
    quoted = panel.locator("figure mark").all_text_contents()
    assert any(trace["spans"][-1]["text"] == each for each in quoted)
    assert "fables.txt" in panel.inner_text()
    page.keyboard.press("Escape")
    assert panel.is_hidden()
    # Characters beyond 16 bits count as one on the server.
    marked = page.evaluate("""async () => {
        const { renderTrace } = await import("/page/trace.js");
        const text = document.createElement("div");
        const span = { number: 1, start: 3, end: 6, tier: "copied", tokens: 8, count: 1, documents: 1, places: [] };
        renderTrace(text, "\\u{1F98A}\\u{1F98A} fox!", { spans: [span] });
        return [text.textContent, text.querySelector("mark").textContent];
    }""")
    assert marked == ["🦊🦊 fox!", "fox"]


MARKDOWN = """# One
## Two
A **bold** and *slanted* and ***both*** `code` ~~gone~~ [link](https://example.org/a_b_c) https://example.org/x.
snake_case_name 2 * 3 * 4 and \\*none\\*

- one
- two
  1. inner
  2. more
- three

> quoted
> - list

```python
x = "<b>**no**</b>"
```

| a | b |
|---|--:|
| 1 | `|` |

---
<b>no</b> & **open
```
never closed"""

EVIL = [
    "<script>window.hurt = 1</script>",
    "<img src=x onerror='window.hurt = 1'>",
    "[x](javascript:window.hurt=1) [x](data:text/html,<script>window.hurt=1</script>) [x](  javascript:1)",
    '[a](https://x.org/"onmouseover="window.hurt=1) <https://x.org/\'><img src=x onerror=window.hurt=1>',
    "![x](https://evil.example/pixel.png) ![](javascript:1)",
    '```"><script>window.hurt = 1</script>\n</code></pre><script>window.hurt = 1</script>',
    "| <svg onload=window.hurt=1> | b |\n|---|---|\n| <iframe src=javascript:1> | </table> |",
    "abc \u202e evil \u2066 txt.exe \x1b[31m \x00 \x9b \U000e0041",
]

RENDER = """async (texts) => {
    const { render } = await import("/page/markdown.js");
    return texts.map((text) => { const at = document.createElement("div"); render(at, text); return at.outerHTML; });
}"""


def test_markdown_is_drawn_and_nothing_in_it_is_run(visit: Visitor) -> None:
    tab = visit()
    page = tab.open()
    [html] = page.evaluate(RENDER, [MARKDOWN])
    for part in ['<h3 class="level-1">One</h3>', "<strong>bold</strong>", "<em>slanted</em>", "<s>gone</s>",
                 "<strong><em>both</em></strong>", "<code>code</code>", "snake_case_name 2 * 3 * 4 and *none*",
                 "https://example.org/x</a>.", "<ol><li>inner</li><li>more</li></ol>", "<li>three</li>", "<hr>",
                 "<blockquote><p>quoted</p><ul><li>list</li></ul></blockquote>", "<span>python</span>",
                 "&lt;b&gt;**no**&lt;/b&gt;", '<td class="end">', "&lt;b&gt;no&lt;/b&gt; &amp; **open", "never closed",
                 ]:  # fmt: skip
        assert part in html, part
    assert re.search(r'<a href="https://example.org/a_b_c"[^>]* rel="noopener noreferrer nofollow"', html)
    # While it grows, it looks at each moment as if it had been drawn at once.
    same = page.evaluate(
        """async (text) => {
        const { render } = await import("/page/markdown.js");
        const growing = document.createElement("div");
        for (let end = 0; end <= text.length; end++) {
            const fresh = document.createElement("div");
            render(growing, text.slice(0, end));
            render(fresh, text.slice(0, end));
            if (growing.innerHTML !== fresh.innerHTML) return text.slice(0, end);
        }
        return true;
    }""",
        MARKDOWN,
    )
    assert same is True

    drawn = "".join(page.evaluate(RENDER, EVIL))
    assert not re.search(r"<(script|img|svg|iframe|object|style)", drawn)
    assert not re.search(r"<[^>]*\s(on\w+|style)=", re.sub(r'="[^"]*"', '=""', drawn))
    links = re.findall(r'href="([^"]*)"', drawn)
    assert links
    assert all(link.startswith("https://") for link in links)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f]", drawn)
    # As a message too, and in the list and the title.
    exchange = tab.say("".join(EVIL))
    assert exchange.locator(".bubble").inner_text().startswith(EVIL[0])
    assert page.locator("#sessions .first").inner_text().startswith("<script>")
    assert page.evaluate("window.hurt") is None

    # Each takes a moment, and would take hours if the time grew with the square of the length.
    n = 20_000
    hostile = ["*" * n, "**a " * n, "`" * n, "`a``b" * n, "[" * n, "[a](" * n, "](" * n, "> " * n, "- " * n, "_a" * n,
               "\n".join("  " * (i % 40) + "- a" for i in range(5_000)), "|" * n + "\n" + "|-" * n, "# " * n,
               "```" + " " * n + "`", "` " + " " * n + "a`", "https://" * n, "<http://a" * n, "a\n\n" * 5_000,
               "-" * n + "x", "- - " * n + "x", "\\" * n, "~~~\n" * 5_000, "1. " * n, "***a" * n]  # fmt: skip
    assert all(page.evaluate("async (texts) => (" + RENDER + ")(texts).then((all) => all.map(() => true))", hostile))


def test_keyboard_and_screen_reader(visit: Visitor, axe: str) -> None:
    tab = visit()
    page = tab.open()
    page.evaluate(axe)

    def clean(state: str, looks: Sequence[tuple[Any, Any]] = ((PHONE, "dark"), (WIDE, "light"))) -> None:
        for viewport, scheme in looks:
            page.set_viewport_size(viewport)
            page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            found = page.evaluate("axe.run().then((found) => found.violations)")
            said = [(each["id"], [node["html"][:200] for node in each["nodes"]]) for each in found]
            assert not said, (state, viewport, scheme, said)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (state, viewport)

    clean("empty")
    tab.set(temperature="0", max_tokens="40")
    exchange = tab.say(STORY)
    tab.say("# A very long word: " + "wide" * 200)
    clean("a conversation", ((PHONE, "light"), (PHONE, "dark"), (WIDE, "dark"), (WIDE, "light")))
    exchange.locator("[data-action=tokens]").click()
    exchange.locator(".token").nth(2).focus()
    clean("tokens")
    page.keyboard.press("Escape")
    exchange.locator("[data-action=trace]").click()
    page.wait_for_selector("#panel figure")
    clean("trace", ((PHONE, "light"), (PHONE, "dark"), (WIDE, "dark"), (WIDE, "light")))
    page.keyboard.press("Escape")
    page.keyboard.press("Alt+s")
    page.wait_for_selector("#panel[data-kind=settings]:not([hidden])")
    clean("settings")
    page.keyboard.press("Escape")
    page.locator("#thread").focus()
    page.keyboard.press("?")
    page.wait_for_selector("#panel[data-kind=help]:not([hidden])")
    clean("help")
    page.keyboard.press("Escape")
    page.click("#session-menu")
    clean("menu", [(WIDE, "light")])
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[open]")
    clean("dialog")
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.id") == "session-menu"

    page.set_viewport_size(PHONE)
    page.click("[data-action=open-sidebar]")
    page.wait_for_function("getComputedStyle(sidebar).visibility === 'visible'")
    clean("list", [(PHONE, "dark")])
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.dataset.action") == "open-sidebar"
    # The switch changes what the system said, and lasts.
    paper = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(paper)
    page.click("#theme")
    assert (after := page.evaluate(paper)) != before
    tab.open()
    assert page.evaluate(paper) == after


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The source of axe-core, which finds what people with a screen reader or a keyboard could not use."""
    found = [
        Path(folder) / "axe-core" / "axe.min.js" for folder in os.environ.get("NODE_PATH", "").split(":") if folder
    ]
    for path in found:
        if path.is_file():
            return path.read_text(encoding="utf-8")
    if shutil.which("npm") is None:
        pytest.skip("npm, which brings axe-core, is missing")
    folder = tmp_path_factory.mktemp("axe")
    command = ["npm", "install", "--no-save", "--silent", "--prefix", str(folder), "axe-core@4"]
    if subprocess.run(command, capture_output=True, timeout=120).returncode != 0:
        pytest.skip("npm cannot bring axe-core: set NODE_PATH to a folder that has it")
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text(encoding="utf-8")
