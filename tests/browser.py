"""A headless Chromium for tests of pages, driven over its DevTools protocol.

    async with browser() as page:
        await page.goto(url)
        await page.click("#end")
        assert await page.evaluate("document.title") == "..." and page.errors == []
"""

import asyncio
import base64
import json
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here to look at the page with")
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-extensions", "--hide-scrollbars",
    "--remote-debugging-port=0",
)
_START_S = _WAIT_S = 60.0
_KEYS = {"Enter": 13, "Escape": 27, "Tab": 9, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}


class Page:
    """A tab. `errors` holds what its console and its network complained of."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.errors: list[str] = []
        self._socket, self._number = socket, 0
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._loaded = asyncio.Event()
        self._reader = asyncio.create_task(self._read())

    async def goto(self, url: str) -> None:
        """Open an address and wait until it has loaded."""
        self._loaded.clear()
        failed = (await self.send("Page.navigate", url=url)).get("errorText")
        assert not failed, f"{url}: {failed}"
        await asyncio.wait_for(self._loaded.wait(), _WAIT_S)

    async def evaluate(self, expression: str) -> Any:
        """The value of an expression of JavaScript (a promise's, once it has one)."""
        found = await self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    async def wait_for(self, expression: str) -> Any:
        """The value of an expression once it is true; fails after a minute."""
        for _ in range(int(_WAIT_S / 0.02)):
            if value := await self.evaluate(expression):
                return value
            await asyncio.sleep(0.02)
        raise AssertionError(f"not within {_WAIT_S:.0f} s: {expression}; the page says:\n{await self.text()}\n{self.errors}")

    async def text(self) -> str:
        """What can be read on the page."""
        return str(await self.evaluate("document.body.innerText"))

    async def click(self, selector: str) -> None:
        """Press the mouse in the middle of an element; fails where another one lies over it."""
        found = json.dumps(selector)
        x, y, hit = await self.evaluate(
            f"(() => {{ const e = document.querySelector({found}); e.scrollIntoView({{block: 'center', behavior: 'instant'}});"
            " const b = e.getBoundingClientRect(), x = b.x + b.width / 2, y = b.y + b.height / 2, at = document.elementFromPoint(x, y);"
            " return [x, y, e.contains(at)]; })()")
        assert hit, f"{selector} is covered or out of sight"
        for kind in ("mousePressed", "mouseReleased"):
            await self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    async def press(self, key: str) -> None:
        """Press and release a key, by its name (`ArrowLeft`) or its character."""
        text = {"text": key} if len(key) == 1 else {}
        code = _KEYS.get(key) or ord(key.upper())
        await self.send("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **text)
        await self.send("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    async def type(self, text: str) -> None:
        """Into what has the focus."""
        await self.send("Input.insertText", text=text)

    async def resize(self, width: int, height: int = 900, dark: bool = False) -> None:
        """CSS pixels of the window, and whether the system asks for dark colours."""
        await self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = "dark" if dark else "light"
        await self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    async def overflow(self) -> int:
        """CSS pixels by which the page is wider than its window."""
        return int(await self.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))

    async def screenshot(self, file: Path, whole: bool = False) -> None:
        """A PNG of what is in the window, or of the whole page."""
        data = (await self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole))["data"]
        file.write_bytes(base64.b64decode(data))

    async def send(self, method: str, **params: Any) -> dict[str, Any]:
        """A command of the protocol (https://chromedevtools.github.io/devtools-protocol/) and its answer."""
        self._number += 1
        answer = self._answers[self._number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": self._number, "method": method, "params": params})
        return await asyncio.wait_for(answer, _WAIT_S)

    async def close(self) -> None:
        self._reader.cancel()
        await self._socket.close()

    async def _read(self) -> None:
        async for message in self._socket:
            said = message.json()
            if "id" in said:
                answer = self._answers.pop(said["id"])
                if "error" in said:
                    answer.set_exception(AssertionError(said["error"]))
                else:
                    answer.set_result(said["result"])
                continue
            self._note(said["method"], said["params"])

    def _note(self, method: str, params: dict[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self._loaded.set()
        elif method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.errors.append(str([argument.get("value") for argument in params["args"]]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")


@asynccontextmanager
async def browser() -> AsyncIterator[Page]:
    """A fresh Chromium with one empty tab; it is gone afterwards."""
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        process = await asyncio.create_subprocess_exec(
            CHROMIUM, *_FLAGS, f"--user-data-dir={home}", "about:blank",
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            port = await asyncio.wait_for(_port(Path(home) / "DevToolsActivePort", process), _START_S)
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                    tabs = [tab for tab in await answer.json() if tab["type"] == "page"]
                page = Page(await session.ws_connect(tabs[0]["webSocketDebuggerUrl"], max_msg_size=0))
                for domain in ("Page", "Runtime", "Log"):
                    await page.send(f"{domain}.enable")
                try:
                    yield page
                finally:
                    await page.close()
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def _port(file: Path, process: asyncio.subprocess.Process) -> int:
    while not (file.exists() and "\n" in file.read_text()):
        assert process.returncode is None, f"Chromium ended with {process.returncode}"
        await asyncio.sleep(0.05)
    return int(file.read_text().split()[0])
