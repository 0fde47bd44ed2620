"""HTML for notebooks: well-formed and escaped, whatever stands in it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tests.display.wellformed import Reading, read

from layerscope.display import html

TEXTS = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), max_size=12)


@given(st.lists(st.lists(TEXTS, min_size=2, max_size=2), max_size=4), TEXTS, TEXTS)
def test_texts_come_out_as_they_went_in(rows, first, second):
    found = read(html.table([f"a{first}", second], rows))
    cells = [cell for line in ([f"a{first}", second], *rows) for cell in line]
    assert [" ".join(c.split()) for c in found.cells] == [" ".join(c.split()) for c in cells]


def test_numbers_stand_to_the_right_and_are_short():
    text = html.table(["layer", "n", "x"], [["a", 1234567, 0.00123456], ["b", 2, None]])
    found = read(text)
    assert found.cells == ["layer", "n", "x", "a", "1,234,567", "0.00123", "b", "2", ""]
    assert text.count("text-align:left") == 3
    assert text.count("text-align:right") == 6


def test_long_tables_are_shortened_in_the_middle():
    found = read(html.table(["n"], [[i] for i in range(1000)]))
    assert found.cells[:3] == ["n", "0", "1"]
    assert found.cells[31] == "... 940 more ..."
    assert found.cells[-1] == "999"
    assert len(found.cells) == 62
    assert len(read(html.table(["n"], [[i] for i in range(60)])).cells) == 61


def test_a_table_without_headings_has_none():
    assert "<thead>" not in html.table(["", ""], [["a", "b"]])


def test_pictures_are_inside_of_the_page():
    found = read(html.picture(b"\x89PNG", 'a "title" <b>', 30))
    assert found.pictures == [("data:image/png;base64,iVBORw==", 'a "title" <b>')]


def test_the_reader_finds_what_is_wrong():
    for wrong in ("<div><b></div>", "<div>", "</div>", '<img src="http://a/b.png">', "<script>"):
        try:
            read(wrong)
        except AssertionError:
            continue
        raise AssertionError(f"{wrong} was taken")
    assert read("<div>a &amp; b</div>") == Reading(text="a & b")
