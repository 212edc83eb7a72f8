"""The report in a browser: nothing overflows a phone, nothing is complained of, all can be read and reached."""

import asyncio
from pathlib import Path

import pytest

from readqg.evaluation import report
from readqg.places import place_of
from tests.browser import browser, needs_chromium
from tests.colours import colours, contrast
from tests.evaluation.finished_run import finished_run, summary_of

CSS = Path(report.__file__).with_name("report.css")


@needs_chromium
@pytest.mark.parametrize("kind", [{}, {"judged": False}, {"queries": 0}], ids=["judged", "unjudged", "no queries"])
def test_the_page_fits_phone_and_screen_and_works_from_the_keyboard(tmp_path, kind):
    out = finished_run(tmp_path / "out", **kind)
    file = tmp_path / "report.html"
    file.write_text(report.html(place_of(out), summary_of(out, price=2.0)))

    async def look():
        async with browser() as page:
            for width, dark in ((375, False), (375, True), (1440, False)):
                await page.resize(width, dark=dark)
                await page.goto(file.as_uri())
                assert await page.overflow() == 0
                outside = await page.evaluate(
                    "[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll, svg') && "
                    "e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))")
                assert outside == []
            silent = await page.evaluate("[...document.querySelectorAll('svg')].filter(e => !e.getAttribute('aria-label')).length")
            drawn = await page.evaluate("document.querySelectorAll('svg').length")
            assert (silent, drawn > 5) == (0, True)
            broken = await page.evaluate("[...document.querySelectorAll('svg *')].filter(e => /NaN|inf/.test(e.outerHTML)).length")
            assert broken == 0
            await page.evaluate("document.querySelector('details:not([open]) > summary').focus()")
            await page.press(" ")
            assert await page.evaluate("document.activeElement.parentElement.open")
            assert page.errors == []

    asyncio.run(look())


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_the_contrast_of_wcag_aa_and_lines_that_of_graphics(scheme):
    colour = colours(CSS, scheme)
    for ground in ("page", "card"):
        for name in ("ink", "soft", "b", "gain", "loss"):
            assert contrast(colour[name], colour[ground]) >= 4.5, (name, ground)
    for name in ("a", "b", "c", "gain", "loss"):
        assert contrast(colour[name], colour["page"]) >= 3, name
