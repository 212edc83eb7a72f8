"""The report in a browser: nothing overflows a phone, nothing is complained of, all can be read and reached."""

import asyncio
import re
from pathlib import Path

import pytest

from readqg.evaluation import report
from readqg.places import place_of
from tests.browser import browser, needs_chromium
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
    blocks = re.findall(r":root \{(.*?)\}", CSS.read_text(), re.DOTALL)[:2]
    colours = dict(re.findall(r"--(\w+): (#\w{6})", blocks[0]))
    if scheme == "dark":
        colours |= dict(re.findall(r"--(\w+): (#\w{6})", blocks[1]))
    for ground in ("page", "card"):
        for name in ("ink", "soft", "b", "gain", "loss"):
            assert _contrast(colours[name], colours[ground]) >= 4.5, (name, ground)
    for name in ("a", "b", "c", "gain", "loss"):
        assert _contrast(colours[name], colours["page"]) >= 3, name


def _contrast(first: str, second: str) -> float:
    high, low = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    channels = [int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
