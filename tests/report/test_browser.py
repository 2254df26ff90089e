"""The pages in a real browser: what a person sees, on a desk, on a phone, on paper."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from distilect.report import build_report, build_summary
from tests.browser import Browser, need, started
from tests.presets import slow
from tests.report.run_files import metrics, write_answers, write_rows, write_run
from tests.report.test_entities import WORDS, tagged_run

EVIL = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\"> row {row}"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started(need()) as found:
        yield found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose texts are scripts, and a second one beside it."""
    root = tmp_path_factory.mktemp("pages")
    for name in ("one", "two"):
        write_run(root / name, metrics(name=name))
    write_rows(root / "one", text=EVIL)
    write_answers(root / "one", text=EVIL)
    build_report(root / "one")
    build_report(tagged_run(root / "words", [[EVIL if word == "London" else word for word in row] for row in WORDS]))
    build_summary([root / "one", root / "two"], root / "summary.html")
    return root


@pytest.fixture
def page(browser: Browser, folder: Path) -> Browser:
    browser.errors.clear()
    browser.open(folder / "one" / "report.html")
    return browser


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True), *slow((1280, True), (390, False))])
def test_there_is_no_console_error_and_no_call_to_the_network(
    browser: Browser, folder: Path, width: int, dark: bool
) -> None:
    browser.errors.clear()
    for path in (folder / "one" / "report.html", folder / "words" / "report.html", folder / "summary.html"):
        browser.open(path, width=width, dark=dark)
    assert browser.errors == []


def test_every_plot_has_marks(page: Browser) -> None:
    page.run("document.querySelectorAll('details').forEach(box => { box.open = true })")
    page.run("new Promise(done => setTimeout(done, 300))")
    marks = page.run(
        "[...document.querySelectorAll('.plot')].map(plot => [plot.getAttribute('aria-label'),"
        " plot.querySelectorAll('.point, .js-line, .hm image').length])"
    )
    assert len(marks) >= 10
    assert [title for title, count in marks if not count] == []


def test_a_text_with_a_script_stays_text(page: Browser) -> None:
    assert page.run("document.title") == "one · distilect"
    assert page.run("document.images.length") == 0
    cells = page.run("[...document.querySelectorAll('#table-differences td.wide')].map(cell => cell.textContent)")
    assert len(cells) > 10 and all(text.startswith("<script>") for text in cells)


def test_an_entity_is_marked_in_its_sentence_by_more_than_its_colour(browser: Browser, folder: Path) -> None:
    browser.open(folder / "words" / "report.html")
    assert browser.run("document.title") == "a-run · distilect" and browser.run("document.images.length") == 0
    marked = browser.run(
        "[...document.querySelectorAll('#table-entities b')].map(mark => [mark.textContent, mark.className])"
    )
    assert ["[Ada Lovelace | per]", "good"] in marked
    assert any(
        text.startswith("[<script>") and text.endswith("| loc → none]") for text, mark in marked if mark == "bad"
    )


def test_the_table_filters_by_every_word_and_counts(page: Browser) -> None:
    shown = (
        "(text => { const box = document.querySelector('#table-differences'), field = box.querySelector('input');"
        " field.value = text; field.dispatchEvent(new Event('input'));"
        " return [[...box.querySelectorAll('tbody tr')].filter(row => row.offsetParent).length,"
        " box.querySelector('.count').textContent] })"
    )
    assert page.run(f"{shown}('')") == [60, "60 rows"]
    count, shown_count = page.run(f"{shown}('ROW 17')")
    assert (count, shown_count) == (1, "1 of 60 rows")
    assert page.run(f"{shown}('no such text')")[0] == 0


def test_a_click_on_a_title_sorts_and_a_second_one_turns_it_round(page: Browser) -> None:
    click = (
        "(() => { const box = document.querySelector('#table-differences');"
        " const title = [...box.querySelectorAll('th')].at(-1); title.querySelector('button').click();"
        " return [title.getAttribute('aria-sort'), [...box.querySelectorAll('tbody tr')].map(row => +row.cells[4].dataset.value)] })()"
    )
    order, values = page.run(click)
    assert order == "descending" and values == sorted(values, reverse=True) and len(set(values)) > 10
    order, values = page.run(click)
    assert order == "ascending" and values == sorted(values)


@pytest.mark.parametrize("name", ["one/report.html", "summary.html"])
def test_nothing_is_wider_than_a_phone(browser: Browser, folder: Path, name: str) -> None:
    browser.open(folder / name, width=390, height=844)
    assert browser.run("document.documentElement.scrollWidth") == 390
    plots = browser.run(
        "[...document.querySelectorAll('.plot svg.main-svg')].map(svg => svg.getBoundingClientRect().right)"
    )
    assert plots and max(plots) <= 390


def test_dark_and_light_differ_in_page_and_plots(browser: Browser, folder: Path) -> None:
    colours = []
    for dark in (False, True):
        browser.open(folder / "one" / "report.html", dark=dark)
        colours.append(
            browser.run(
                "[getComputedStyle(document.body).backgroundColor,"
                " getComputedStyle(document.querySelector('.plot .gtitle, .plot .xtitle')).fill]"
            )
        )
    assert colours[0][0] != colours[1][0] and colours[0][1] != colours[1][1]


def test_it_prints_tables_whole_and_without_what_paper_cannot_do(page: Browser, tmp_path: Path) -> None:
    paper = page.pdf(tmp_path / "report.pdf").read_bytes()  # leaves the page as it is printed
    assert paper.startswith(b"%PDF") and paper.count(b"/Type /Page") >= 3
    assert page.run("document.querySelector('.tools input').offsetParent") is None
    shown = page.run(
        "(() => { const box = document.querySelector('#table-differences .rows');"
        " return [box.scrollHeight <= box.clientHeight + 1,"
        " [...box.querySelectorAll('tbody tr')].filter(row => row.offsetParent).length] })()"
    )
    assert shown == [True, 25]


def test_a_browser_that_is_required_is_not_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.browser.find", lambda: None)
    for variable, value, outcome in (
        ("DISTILECT_REQUIRE_BROWSER", "1", pytest.fail.Exception),
        ("DISTILECT_REQUIRE_BROWSER", "0", pytest.skip.Exception),
        ("CI", "1", pytest.fail.Exception),
    ):
        with monkeypatch.context() as patch:
            patch.delenv("CI", raising=False)
            patch.delenv("DISTILECT_REQUIRE_BROWSER", raising=False)
            patch.setenv(variable, value)
            with pytest.raises(outcome, match="NO BROWSER"):
                need()
