"""The page of `readqg compare`, served on 127.0.0.1 alone. (aiohttp, which Ray brings anyway: Gradio would bring forty packages, a
page that loads fonts from elsewhere, and no say over blindness or the keyboard.)

Others on the same machine can reach a loopback port, and so can pages in the same browser. So: a key in the address that the terminal
shows, kept in a cookie; the Host header must name this machine (against DNS rebinding); what changes something is JSON that
carries the key again, from the page's own origin; scripts and styles come from this server's own files and from nowhere else; and
the page puts data into the document as text, never as markup.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import resources
from typing import Any

import jinja2
from aiohttp import web
from pydantic import BaseModel, ValidationError

from readqg.comparing import results
from readqg.comparing.judgments import Choice, Grade, Shown, UnfitError
from readqg.comparing.session import Session
from readqg.errors import FolderError, InputError, ModelError, ReadQGError, RunError

log = logging.getLogger("readqg")

KEY_HEADER = "X-ReadQG-Key"
_HOST = re.compile(r"(127\.0\.0\.1|localhost)(:\d{1,5})?")
_MAX_BODY_BYTES = 64 << 10
_LAST_ANSWER_S = 0.5
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
                               "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin",
}
_FILES = {"/page.js": "text/javascript", "/page.css": "text/css"}


class _StoppingError(Exception):
    """Scoring was told to stop, all of it or one query's."""


class _Asked(BaseModel):
    query: str


class Server:
    """Answers of one session. `stop` is set when the comparison has ended or a signal has come; `scoring` ends then."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.key = secrets.token_urlsafe(24)
        self.stop = asyncio.Event()
        self._cookie = f"readqg-{secrets.token_hex(4)}"  # cookies are shared by the ports of a machine
        self._scoring = ThreadPoolExecutor(1, "scoring")
        self._stopping = threading.Event()
        self._pending: dict[str, asyncio.Future[Shown]] = {}
        self._ahead: dict[str, threading.Event] = {}
        """Of those pending that nobody waits for yet: ends the work."""

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._guard], client_max_size=_MAX_BODY_BYTES)
        app.on_response_prepare.append(_add_headers)
        app.on_shutdown.append(self._close)
        app.add_routes([web.get("/", self._page), web.get("/api/state", self._state), web.get("/api/result", self._result)])
        app.add_routes([web.get(name, partial(_file, name)) for name in _FILES])
        for name in ("next", "ask", "choice", "grade", "undo", "end"):
            app.router.add_post(f"/api/{name}", getattr(self, f"_{name}"))
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if not _HOST.fullmatch(request.headers.get("Host", "")):
            raise web.HTTPForbidden(text="This page is for this machine alone: open it as http://127.0.0.1.")
        if request.path == "/" and self._is_key(request.query.get("key")):
            response = web.HTTPSeeOther("/")
            response.set_cookie(self._cookie, self.key, httponly=True, samesite="Strict")
            raise response
        if not self._is_key(request.cookies.get(self._cookie)):
            raise web.HTTPForbidden(text="Open the address that the terminal shows: it holds the key to this page.")
        if request.method != "GET":
            own = request.headers.get("Origin") == f"http://{request.headers['Host']}"
            if not own or not self._is_key(request.headers.get(KEY_HEADER)) or request.content_type != "application/json":
                raise web.HTTPForbidden(text="This did not come from the page itself.")
        try:
            return await handler(request)
        except (ValidationError, UnfitError) as error:
            return web.json_response({"error": f"This does not fit: {error}"}, status=409)
        except _StoppingError:
            raise web.HTTPServiceUnavailable(text="The command is ending.") from None
        except FolderError as error:
            return web.json_response({"error": str(error)}, status=507)
        except ReadQGError as error:
            return web.json_response({"error": str(error)}, status=422)

    def _is_key(self, given: str | None) -> bool:
        return given is not None and secrets.compare_digest(given.encode("utf-8", "surrogateescape"), self.key.encode())

    async def _page(self, _request: web.Request) -> web.Response:
        config, rankings = self.session.config, self.session.rankings
        text = _template().render(
            key=self.key, key_header=KEY_HEADER, typing=rankings.typing, loaded=len(rankings.queries), share=config.share,
            beforehand=results.beforehand(config), needs=results.table_of_needs(config), power=config.power,
        )
        return web.Response(text=text, content_type="text/html")

    async def _state(self, _request: web.Request) -> web.Response:
        waiting = self.session.judgments.waiting
        return await self._answer(waiting.query_id if waiting else None)

    async def _result(self, _request: web.Request) -> web.Response:
        return web.json_response(self.session.result())

    async def _next(self, _request: web.Request) -> web.Response:
        coming = self.session.upcoming(2)
        if not coming:
            return await self._answer(None)
        try:
            await self._show(coming[0], self.session.query(coming[0]))
        except (InputError, ModelError):
            self.session.pass_over(coming[0])
            raise
        for later in coming[1:]:
            if later not in self.session.judgments.shown and later not in self._pending:
                self._ahead[later] = threading.Event()
                self._ranked(later, self.session.query(later), self._ahead[later])  # while this one is read
        return await self._answer(coming[0])

    async def _ask(self, request: web.Request) -> web.Response:
        text = " ".join(_Asked.model_validate_json(await request.read()).query.split())
        query_id = self.session.rankings.id_of(text)
        await self._show(query_id, text)
        return await self._answer(query_id)

    async def _choice(self, request: web.Request) -> web.Response:
        self.session.keep(Choice.model_validate_json(await request.read()))
        return await self._answer(None)

    async def _grade(self, request: web.Request) -> web.Response:
        self.session.keep(Grade.model_validate_json(await request.read()))
        return await self._answer(None)

    async def _undo(self, _request: web.Request) -> web.Response:
        return await self._answer(self.session.undo())

    async def _end(self, _request: web.Request) -> web.Response:
        summary = self.session.end()
        asyncio.get_running_loop().call_later(_LAST_ANSWER_S, self.stop.set)
        return web.json_response(summary)

    async def _answer(self, query_id: str | None) -> web.Response:
        """How far the work is, and the comparison of a query that has been shown."""
        view = await asyncio.to_thread(self.session.view, query_id) if query_id is not None else None
        return web.json_response({"progress": self.session.progress(), "comparison": view})

    async def _show(self, query_id: str, query: str) -> None:
        self._ahead.pop(query_id, None)  # from here on it is waited for
        for other in [other for other in self._ahead if not self._pending[other].done()]:
            self._ahead.pop(other).set()  # what is asked goes first
            del self._pending[other]
        if query_id not in self.session.judgments.shown:
            try:
                shown = await self._ranked(query_id, query)
            finally:
                self._pending.pop(query_id, None)
            self.session.show(shown)

    def _ranked(self, query_id: str, query: str, given_up: threading.Event | None = None) -> asyncio.Future[Shown]:
        """Its rankings, under way in the one thread that scores until `given_up` is set."""
        if query_id not in self._pending:
            work = partial(self.session.rankings.rank, query_id, query, partial(self._alive, given_up))
            future = asyncio.get_running_loop().run_in_executor(self._scoring, work)
            future.add_done_callback(lambda done: done.cancelled() or done.exception())  # told when somebody asks for it
            self._pending[query_id] = future
        return self._pending[query_id]

    def _alive(self, given_up: threading.Event | None) -> None:
        if self._stopping.is_set() or (given_up is not None and given_up.is_set()):
            raise _StoppingError

    async def _close(self, _app: web.Application) -> None:
        self._stopping.set()
        self._scoring.shutdown(wait=False, cancel_futures=True)


def serve(session: Session) -> int:
    """Serve until the comparison ends (0) or a signal comes (130 for Ctrl-C, 143 for SIGTERM)."""
    return asyncio.run(_serve(session))


async def _serve(session: Session) -> int:
    server, stopped_by = Server(session), 0
    runner = web.AppRunner(server.app(), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    site = web.TCPSite(runner, session.config.host, session.config.port)

    def stop(number: int) -> None:
        nonlocal stopped_by
        stopped_by = 128 + number
        server.stop.set()

    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        loop.add_signal_handler(number, stop, number)
    try:
        try:
            await site.start()
        except OSError as error:
            raise RunError(f"port {session.config.port} of {session.config.host} cannot be had: {error.strerror}. Give another --port, or "
                           "--port 0 for any that is free.") from None
        port = runner.addresses[0][1]
        log.info("Open http://%s:%d/?key=%s\nEnd it on the page, or with Ctrl-C: what is judged stays, and the same command goes on.",
                 session.config.host, port, server.key)
        await server.stop.wait()
    finally:
        await runner.cleanup()
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)
    return stopped_by


async def _add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)


async def _file(name: str, _request: web.Request) -> web.Response:
    text = (resources.files("readqg.comparing") / name.strip("/")).read_text(encoding="utf-8")
    return web.Response(text=text, content_type=_FILES[name])


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("readqg.comparing", "."), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2")
