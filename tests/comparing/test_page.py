"""Somebody sits at the page: ten queries by mouse and keys, in a real browser, over real (tiny) models."""

import asyncio
import json
import os
from pathlib import Path

import pytest
from aiohttp import web

from readqg.comparing import results
from readqg.comparing import server as server_module
from readqg.comparing.server import Server
from readqg.comparing.statistics import preference
from tests.browser import browser, needs_chromium
from tests.colours import colours, contrast
from tests.comparing.collection import HOSTILE, session_of, write_collection

SHOTS = os.environ.get("READQG_SCREENSHOTS")


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    return write_collection(tmp_path_factory.mktemp("collection"))


async def shoot(page, name):
    """No part may stick out at any width; with READQG_SCREENSHOTS=FOLDER there are pictures to look at, too."""
    for width, height in ((375, 812), (1440, 900)):
        for dark in (False, True):
            await page.resize(width, height, dark)
            assert await page.overflow() <= 0, (name, width)
            if SHOTS:
                await page.screenshot(Path(SHOTS) / f"{name}-{width}-{'dark' if dark else 'light'}.png")


async def judge(page, number, choice, by_key):
    before = await page.evaluate("document.getElementById('asked').textContent")
    keys = {"left": "ArrowLeft", "right": "ArrowRight", "tie": "t", "skip": "s"}
    await (page.press(keys[choice]) if by_key else page.click(f"[data-choice={choice}]"))
    await page.wait_for(f"!busy && document.getElementById('status').textContent.startsWith('Kept') "
                        f"&& document.getElementById('asked').textContent !== {json.dumps(before)}")


@needs_chromium
def test_ten_judgments_by_mouse_and_keys_and_the_end(collection, tmp_path):
    async def work():
        with session_of(collection, out=str(tmp_path / "out"), shown=25) as session:  # some of them with hostile titles
            server = Server(session)
            runner = web.AppRunner(server.app())
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            try:
                async with browser() as page:
                    await sit(page, f"http://127.0.0.1:{runner.addresses[0][1]}/", server, session)
                    assert page.errors == []
            finally:
                await runner.cleanup()

    asyncio.run(work())


async def sit(page, url, server, session):
    await page.resize(1440)
    await page.goto(f"{url}?key={server.key}")
    await page.wait_for("shown && !busy")
    assert "199 without a tie" in await page.text()
    assert await page.evaluate("document.activeElement.id") == "asked"
    assert await page.evaluate("document.querySelectorAll('mark').length") > 3
    await shoot(page, "judging")

    choices = ["left", "right", "left", "tie", "right", "right", "skip", "left", "left", "right"]
    for number, choice in enumerate(choices):
        await judge(page, number, choice, by_key=number % 2)
    judgments = session.judgments
    assert list(judgments.choices.values()) == choices
    assert [judgments.count(said) for said in ("left", "right", "tie", "skip")] == [4, 4, 1, 1]

    await page.click("#interim summary")
    wins = judgments.wins("a"), judgments.wins("b")
    text = await page.wait_for("document.getElementById('interim-text').textContent.includes('One is') && document.body.innerText")
    assert f"One is better {max(wins)} times, the other {min(wins)} (the test is made once as many are judged as planned)." in text
    assert "9 judged, 1 of them ties; 8 of 199 without a tie." in text
    await page.click("#interim summary")

    await page.click("#keys")
    for key in ("ArrowLeft", "t", "u"):  # no key judges once they are off, whatever has the focus
        await page.press(key)
        await page.evaluate("document.getElementById('asked').focus()")
    await page.goto(url)
    await page.wait_for("shown && !busy")
    await page.press("t")
    assert not await page.evaluate("document.getElementById('keys').checked") and len(judgments.choices) == 10
    await page.click("#keys")
    await page.evaluate("document.getElementById('asked').focus()")

    await page.press("u")  # takes back the tenth, and gives it anew by mouse
    await page.wait_for("!busy && document.getElementById('status').textContent.startsWith('Taken back')")
    assert len(judgments.choices) == 9
    await judge(page, 9, "left", by_key=False)

    await page.click("#query")
    await page.type(f"heat of the wing {HOSTILE}")
    await page.press("s")  # a letter of the query, not a choice
    await page.press("Enter")
    await page.wait_for("!busy && shown && shown.query.startsWith('heat of the wing')")
    assert len(judgments.choices) == 10
    titles = await page.evaluate("[...document.querySelectorAll('.doc strong')].map(e => e.textContent)")
    assert HOSTILE in titles and "hacked" not in await page.evaluate("document.title")
    assert await page.evaluate("document.querySelectorAll('main img, main script').length") == 0
    await page.click(".doc .yes")
    await page.wait_for("!busy && document.querySelector('.doc .yes').ariaPressed === 'true'")
    assert sum(judgments.grades[judgments.waiting.query_id].values()) == 1
    await page.press("s")  # on a button that has the focus a letter does nothing
    assert len(judgments.choices) == 10
    named = "document.querySelector('[aria-expanded]').ariaLabel"
    doc_id = await page.evaluate("document.querySelector('.doc:has([aria-expanded]) [data-document]').dataset.document")
    assert await page.evaluate(named) == f"More of document {doc_id}"
    await page.click("[aria-expanded=false]")
    assert await page.evaluate(named) == f"Less of document {doc_id}"
    assert await page.evaluate("document.querySelectorAll('[aria-expanded=true]').length") == 1
    await shoot(page, "unfolded")
    await page.evaluate("scrollTo(0, 0)")
    await shoot(page, "typed")

    await page.goto(url)  # a reload shows what is waiting
    await page.wait_for("!busy && shown && shown.query.startsWith('heat of the wing')")
    await judge(page, 10, "tie", by_key=True)

    await page.click("#end")
    await shoot(page, "sure")
    await page.press("ArrowLeft")  # no choice behind the dialog
    await page.click("#sure-no")
    assert len(judgments.choices) == 11 and not judgments.ended
    await page.click("#end")
    await page.click("#sure-yes")
    await page.wait_for("ended")
    text = await page.text()
    summary = results.summary(session.config, session.rankings, judgments)
    assert session.config.a in text and session.config.b in text
    found = preference(judgments.wins("a"), judgments.wins("b"))
    assert summary["verdict"].capitalize() in text
    assert f"B is better in {100 * found.share:.1f} % of the first {summary['tested']} queries without a tie" in text
    assert f"(95 % interval {100 * found.low:.1f} % to {100 * found.high:.1f} %; exact sign test p = {found.p:.3f})" in text
    await shoot(page, "end")


@needs_chromium
def test_a_page_that_has_nothing_to_ask_says_so_and_one_whose_command_has_ended_too(collection, tmp_path):
    async def work():
        with session_of(collection, out=str(tmp_path / "out"), a="bm25", queries=None) as session:
            server = Server(session)
            runner = web.AppRunner(server.app(), shutdown_timeout=0.1)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            async with browser() as page:
                await page.goto(f"http://127.0.0.1:{runner.addresses[0][1]}/?key={server.key}")
                await page.wait_for("!busy && document.getElementById('status').textContent === 'Type a query, or end.'")
                assert await page.evaluate("document.activeElement.id") == "query"
                assert await page.evaluate("[...document.querySelectorAll('[data-choice]')].every(b => b.disabled)")
                await shoot(page, "nothing")
                await page.type("zzz")
                await page.press("Enter")
                await page.wait_for("!busy && shown && document.getElementById('left').innerText.includes('Nothing found')")
                resting = "[...document.querySelectorAll('[data-choice]:disabled')].map(button => button.dataset.choice)"
                assert await page.evaluate(resting) == ["left", "right"]
                await shoot(page, "same")
                await runner.cleanup()
                await page.click("[data-choice=tie]")
                await page.wait_for("!document.getElementById('alert').hidden")
                assert "has ended. Start it again" in await page.text()

    asyncio.run(work())


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_of_the_page_has_the_contrast_of_wcag_aa_and_lines_that_of_graphics(scheme):
    colour = colours(Path(server_module.__file__).with_name("page.css"), scheme)
    texts = [(name, ground) for name in ("ink", "soft") for ground in ("page", "card")]
    for name, ground in (*texts, ("on-a", "a"), ("on-mark", "mark"), ("page", "good"), ("page", "bad")):
        assert contrast(colour[name], colour[ground]) >= 4.5, (name, ground)
    for name, ground in (("a", "page"), ("soft", "page"), ("warn", "page"), ("warn", "card"), ("bad", "card")):
        assert contrast(colour[name], colour[ground]) >= 3, (name, ground)
