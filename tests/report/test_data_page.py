"""The page of a prepared set: what rows hold is text in it."""

from __future__ import annotations

import html.parser

from corl_jax.data.prepared.blocks import Block
from corl_jax.data.prepared.prepare import PreparedSplit
from corl_jax.data.prepared.summary import REJECTED, Summary
from corl_jax.report.data_page import render_data_page

EVIL = "<script>alert('x')</script>&\"$\\frac"


class Tags(html.parser.HTMLParser):
    """Tags of a page with their attributes."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes = [], {}
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes[tag] = dict(attributes)


def test_texts_of_rows_stay_texts():
    summary = Summary()
    for place in range(20):
        summary.values["answer"][f"{EVIL}{place}"] += 1
    summary.values[REJECTED][EVIL] = 3
    summary.numbers[EVIL] = {1: 4, 1000: 2}
    block = Block(23, 20, 9, {}, [], {}, [(EVIL, "")])
    page = render_data_page([PreparedSplit(EVIL, 1023, (block,), summary)], {"source": EVIL})
    found = Tags(page)
    assert "script" not in found.tags and found.tags.count("svg") == 1
    assert found.attributes["img"]["src"] == f"pictures-{EVIL}.jpg"
    assert "20 of 1,023 rows; 3 rejected" in page and "8 others" in page
    assert "from 1 to 1,000, median 1" in page
