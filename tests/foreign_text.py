"""Text that tries to become markup, for property tests, and a parser that shows whether it did."""

from hypothesis import strategies as st
from markdown_it import MarkdownIt

MARKUP = st.lists(
    st.sampled_from(
        [
            *"\\`*_[]<>&|~$!#+-=.:()@/\"'{}^ \t\n\r1aé",
            *("```", "~~~", "---", "***", "1. ", "2) ", "- ", "> ", "# ", "<b>", "</p>", "<!--", "&lt;", "&#60;"),
            *("http://a.b", "a@b.c", "www.", "![x](y)", "[x]: y", "](", "|---|", "[bold]", "[/]", ":smile:", "{{ x }}"),
            *("\u202e", "\x1b[31m", "\u2028", "\x00", "\ud800"),
        ]
    ),
    max_size=20,
).map("".join)
TEXTS = st.one_of(MARKUP, st.text(max_size=60))
PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
