"""What the chat of the page makes of the text of a model, in Chromium."""

from tests.page.browsing import page_host
from tests.page.conftest import OpenPage

SHOW = """(texts) => {
  const place = document.createElement("div");
  for (const text of texts) showMarkdown(place, text);
  return place.innerHTML;
}"""
CODE = '<pre tabindex="0"><code>{}</code></pre>'
LINK = '<a href="{0}" rel="noopener noreferrer" target="_blank">{1}</a>'

CASES = {
    "plain": "<p>plain</p>",
    "one\nline": "<p>one\nline</p>",
    "a\n\nb": "<p>a</p><p>b</p>",
    "**b** *i* `c` **b `c`**": (
        "<p><strong>b</strong> <em>i</em> <code>c</code> <strong>b <code>c</code></strong></p>"
    ),
    "2 * 3 * 4 and a_b_c": "<p>2 * 3 * 4 and a_b_c</p>",
    "# One\n### Three #": "<h3>One</h3><h5>Three</h5>",
    "#hash": "<p>#hash</p>",
    "## C#": "<h4>C#</h4>",
    "#  ##": "<h3></h3>",
    "---": "<hr>",
    "- a\n- b": "<ul><li>a</li><li>b</li></ul>",
    "3. a\n4. b": '<ol start="3"><li>a</li><li>b</li></ol>',
    "- a\n  - b\n  - c\n- d": "<ul><li><p>a</p><ul><li>b</li><li>c</li></ul></li><li>d</li></ul>",
    "- a\n\n- b\n\nafter": "<ul><li><p>a</p></li><li>b</li></ul><p>after</p>",
    "1. a\n   ```\n   x\n   ```\n2. b": f'<ol start="1"><li><p>a</p>{CODE.format("x")}</li><li>b</li></ol>',
    "> q\n> r\nafter": "<blockquote><p>q\nr</p></blockquote><p>after</p>",
    "```py\nx = 1\n\ny\n```\nafter": CODE.format("x = 1\n\ny") + "<p>after</p>",
    "```\nnot closed": CODE.format("not closed"),
    "````\n```\n````": CODE.format("```"),
    "```\n<b> & **x**\n```": CODE.format("&lt;b&gt; &amp; **x**"),
    "| a | b |\n|---|:-:|\n| 1 | **2** |": (
        "<table><thead><tr><th>a</th><th>b</th></tr></thead>"
        "<tbody><tr><td>1</td><td><strong>2</strong></td></tr></tbody></table>"
    ),
    "a | b": "<p>a | b</p>",
    "[x](https://a.example/b)": f"<p>{LINK.format('https://a.example/b', 'x')}</p>",
    "[x](javascript:alert(1))": "<p>[x](javascript:alert(1))</p>",
    "[x](data:text/html,1) [y](/models)": "<p>[x](data:text/html,1) [y](/models)</p>",
    "<script>alert(1)</script>": "<p>&lt;script&gt;alert(1)&lt;/script&gt;</p>",
    "`<img src=x>`": "<p><code>&lt;img src=x&gt;</code></p>",
    "": "",
    "\n\n": "",
    "*": "<p>*</p>",
    "- ": "<ul><li></li></ul>",
    "1.": "<p>1.</p>",
}


def test_markdown_becomes_the_elements_that_it_means_and_nothing_else(open_page: OpenPage) -> None:
    with page_host() as host, open_page(host.port) as page:
        made = {text: page.evaluate(SHOW, [text]) for text in CASES}
    assert made == CASES


def test_a_text_that_grows_is_shown_as_if_it_had_come_at_once(open_page: OpenPage) -> None:
    text = "\n\n".join(CASES)
    growing = [text[:end] for end in range(0, len(text), 7)]
    with page_host() as host, open_page(host.port) as page:
        assert page.evaluate(SHOW, [*growing, text]) == page.evaluate(SHOW, [text])


def test_a_hostile_text_takes_no_longer_than_its_length(open_page: OpenPage) -> None:
    """Each of these would keep a parser busy for minutes that looks at every pair of marks."""
    with page_host() as host, open_page(host.port) as page:
        for piece in ("*", "**a", "`", "[", "[a](", "> ", "- ", "|", "#", "```\n", "* * *", "\n"):
            assert page.evaluate(SHOW, [piece * 50_000]) is not None
        for heading in ("# a{}b", "# {}a\u2028b", "# {}", "# a{} #", "# #{}#a"):
            assert page.evaluate(SHOW, [heading.format(" " * 50_000)]) is not None
            assert page.evaluate(SHOW, [heading.format(" #" * 50_000)]) is not None
