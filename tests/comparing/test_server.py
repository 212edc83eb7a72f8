"""The page's server: blind, durable, and closed to whoever does not hold its key."""

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import threading
import time
from contextlib import asynccontextmanager

import pytest
from aiohttp import ClientSession, CookieJar
from aiohttp.test_utils import TestServer
from transformers import AutoTokenizer, BertForSequenceClassification

from readqg.comparing import results
from readqg.comparing.judgments import Shown
from readqg.comparing.rankings import Rankings
from readqg.comparing.server import KEY_HEADER, Server, serve
from readqg.errors import FolderError
from tests.comparing.collection import HOSTILE, QUERIES, session_of, write_collection


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    return write_collection(tmp_path_factory.mktemp("collection"))


@pytest.fixture
def out(tmp_path):
    return {"out": str(tmp_path / "out")}


class Client:
    """What the page's script does, over HTTP."""

    def __init__(self, http, url, key):
        self.http, self.url, self.key = http, str(url).rstrip("/"), key
        self.headers = {"Origin": self.url, KEY_HEADER: key}

    async def get(self, path, **kwargs):
        async with self.http.get(self.url + path, **kwargs) as answer:
            return answer, await answer.text()

    async def post(self, name, body=None, status=200, headers=None, **kwargs):
        kwargs = kwargs or {"json": body or {}}
        async with self.http.post(f"{self.url}/api/{name}", headers=self.headers if headers is None else headers, **kwargs) as answer:
            text = await answer.text()
            assert answer.status == status, text
            return json.loads(text) if answer.content_type == "application/json" else text


@asynccontextmanager
async def served(session, signed_in=True):
    server = Server(session)
    async with TestServer(server.app()) as running, ClientSession(cookie_jar=CookieJar(unsafe=True)) as http:
        client = Client(http, running.make_url("/"), server.key)
        client.server = server
        if signed_in:
            answer, text = await client.get(f"/?key={server.key}")
            assert answer.status == 200 and "Which ranking is better?" in text
            assert answer.url.query == {}
        yield client


def run(collection, test, signed_in=True, **changes):
    async def work():
        with session_of(collection, **changes) as session:
            async with served(session, signed_in) as client:
                return await test(client, session)

    return asyncio.run(work())


def test_loaded_queries_are_gone_through_and_choices_count(collection, out):
    async def test(client, session):
        seen = []
        for number in range(4):
            answer = await client.post("next")
            view = answer["comparison"]
            seen.append(view["query_id"])
            assert view["query"] == QUERIES[view["query_id"]]
            assert answer["progress"]["left_over"] == len(QUERIES) - number
            choice = ["left", "right", "tie", "skip"][number]
            progress = (await client.post("choice", {"query_id": view["query_id"], "choice": choice}))["progress"]
        assert seen == list(session.rankings.queries)[:4]
        assert (progress["judged"], progress["decided"], progress["ties"], progress["skipped"]) == (3, 2, 1, 1)
        left_of = session.rankings.left_of
        right = "b" if left_of(seen[1]) == "a" else "a"
        winners = [left_of(seen[0]), right]
        wins = winners.count("a"), winners.count("b")
        assert json.loads((await client.get("/api/result"))[1]) == {"more_wins": max(wins), "fewer_wins": min(wins), "p": None, "tested": 0}
        found = await client.post("end")
        assert (found["wins_a"], found["wins_b"]) == wins

    run(collection, test, **out)


def test_the_page_never_learns_whose_ranking_is_where(collection, out):
    async def test(client, session):
        answers = [(await client.get("/"))[1], json.dumps(await client.post("next"))]
        view = json.loads(answers[1])["comparison"]
        answers.append(json.dumps(await client.post("choice", {"query_id": view["query_id"], "choice": "left"})))
        answers.append(json.dumps(await client.post("ask", {"query": "heat of the wing"})))
        answers += [(await client.get(path))[1] for path in ("/api/state", "/api/result")]
        for text in answers:
            assert session.config.a not in text and session.config.b not in text
            assert '"a"' not in text and '"b"' not in text and "wins_" not in text and "share_b" not in text
        assert list(view["documents"]) == list(dict.fromkeys((*view["left"], *view["right"])))

    run(collection, test, **out)


def test_each_ranking_stands_where_the_coin_put_it(collection, out):
    async def test(client, session):
        lefts = set()
        while lefts != {"a", "b"}:
            view = (await client.post("next"))["comparison"]
            shown = session.judgments.shown[view["query_id"]]
            assert (view["left"], view["right"]) == (([*shown.a], [*shown.b]) if shown.left == "a" else ([*shown.b], [*shown.a]))
            await client.post("choice", {"query_id": view["query_id"], "choice": "tie"})
            lefts.add(shown.left)

    run(collection, test, **out)


@pytest.mark.parametrize("left", ["a", "b"])
def test_nothing_in_the_view_depends_on_which_side_is_a(collection, out, left):
    """The same two columns, once with A on the left and once with B."""
    one, two = ("d01", "d02", "d03"), ("d04", "d02", "d05")
    a, b = (one, two) if left == "a" else (two, one)
    with session_of(collection, **{**out, "a": "bm25"}) as session:
        session.show(Shown(query_id="q01", query=QUERIES["q01"], left=left, a=a, b=b))
        view = session.view("q01")
    assert (view["left"], view["right"], list(view["documents"])) == ([*one], [*two], ["d01", "d02", "d03", "d04", "d05"])


def test_a_restart_goes_on_where_it_stopped(collection, out):
    async def before(client, _):
        first = (await client.post("next"))["comparison"]["query_id"]
        await client.post("choice", {"query_id": first, "choice": "left"})
        return first, (await client.post("ask", {"query": "shock  and heat"}))["comparison"]

    async def after(client, session):
        waiting = json.loads((await client.get("/api/state"))[1])["comparison"]
        assert waiting == view and waiting["query"] == "shock and heat"
        assert list(session.judgments.choices) == [first]
        following = (await client.post("next"))["comparison"]["query_id"]
        assert following == list(session.rankings.queries)[1]
        undone = await client.post("undo")
        assert undone["comparison"]["query_id"] == first and undone["progress"]["judged"] == 0
        await client.post("undo", status=409)

    first, view = run(collection, before, **out)
    run(collection, after, **out)


def test_grades_and_queries_are_written_at_once(collection, out, tmp_path):
    async def test(client, _):
        view = (await client.post("ask", {"query": "heat of the layer"}))["comparison"]
        one, two = view["left"][0], view["right"][-1]
        for doc_id, relevance in ((one, 1), (two, 0)):
            await client.post("grade", {"query_id": view["query_id"], "doc_id": doc_id, "relevance": relevance})
        lines = (tmp_path / "out" / "qrels" / "test.tsv").read_text().splitlines()
        assert lines == ["query-id\tcorpus-id\tscore", *(f"{view['query_id']}\t{d}\t{g}" for d, g in {one: 1, two: 0}.items())]
        await client.post("grade", {"query_id": view["query_id"], "doc_id": two, "relevance": None})
        assert len((tmp_path / "out" / "qrels" / "test.tsv").read_text().splitlines()) == 2
        assert json.loads((tmp_path / "out" / "queries.jsonl").read_text()) == {"_id": view["query_id"], "text": "heat of the layer"}

    run(collection, test, **out)


@pytest.mark.parametrize(("name", "body", "status"), [
    ("choice", {"query_id": "q01", "choice": "left"}, 409),  # not shown yet
    ("choice", {"query_id": "q01", "choice": "b"}, 409),
    ("choice", {"query_id": 7}, 409),
    ("choice", [], 409),
    ("grade", {"query_id": "q01", "doc_id": "d01", "relevance": 1}, 409),
    ("grade", {"query_id": "q01", "doc_id": "d01", "relevance": "<b>"}, 409),
    ("ask", {"query": ""}, 422),
    ("ask", {"query": "x" * 1001}, 422),
    ("ask", {}, 409),
])
def test_what_does_not_fit_is_refused_and_not_kept(collection, out, tmp_path, name, body, status):
    async def test(client, _):
        await client.post(name, status=status, data=json.dumps(body), headers={**client.headers, "Content-Type": "application/json"})
        assert (tmp_path / "out" / "judgments.jsonl").read_text() == ""

    run(collection, test, **{**out, "a": "bm25"})


def test_without_the_key_nothing_is_told(collection, out):
    async def test(client, session):
        for path in ("/", "/page.js", "/api/state", "/api/result", "/?key=wrong", f"/api/state?key={client.key}", "/?key=", "/nowhere"):
            answer, text = await client.get(path)
            assert answer.status == 403 and "terminal" in text, path
            assert not any(word in text for word in (*QUERIES.values(), client.key))
        await client.post("next", status=403)
        assert not client.server._is_key("\udcff")  # as aiohttp gives a header that is not UTF-8
        assert session.judgments.shown == {}

    run(collection, test, signed_in=False, **{**out, "a": "bm25"})


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8377", "127.0.0.1.evil.example", "localhost.evil.example:80", "", "[::1]",
                                  "127.0.0.1:80@evil.example", "0.0.0.0"])
def test_another_host_is_refused_even_with_the_key(collection, out, host):
    async def test(client, _):
        for path in (f"/?key={client.key}", "/api/state", "/page.js"):
            answer, text = await client.get(path, headers={"Host": host}, allow_redirects=False)
            assert answer.status in (400, 403) and "Set-Cookie" not in answer.headers and client.key not in text
        answer, _ = await client.get("/api/state", headers={"Host": "localhost:9999"})  # a tunnel's
        assert answer.status == 200

    run(collection, test, **{**out, "a": "bm25"})


def test_another_page_can_change_nothing(collection, out):
    async def test(client, session):
        own = client.headers
        origins = ("http://evil.example", "null", "http://127.0.0.1:1", own["Origin"].replace("http", "https"))
        lacking = ({}, {"Origin": own["Origin"]}, {KEY_HEADER: client.key}, {**own, KEY_HEADER: "wrong"})
        for headers in (*lacking, *({**own, "Origin": origin} for origin in origins)):
            await client.post("next", status=403, headers=headers)
        await client.post("next", status=403, data="{}", headers={**own, "Content-Type": "text/plain"})
        await client.post("next", status=403, data={"x": "1"})
        assert session.judgments.shown == {}
        await client.post("ask", status=413, json={"query": "x" * 100_000})

    run(collection, test, **{**out, "a": "bm25"})


def test_every_answer_forbids_what_the_page_does_not_need(collection, out):
    async def test(client, _):
        for path in ("/", "/page.js", "/page.css", "/api/state", "/nowhere"):
            answer, _ = await client.get(path)
            policy = answer.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
            assert answer.headers["X-Content-Type-Options"] == "nosniff" and answer.headers["Cache-Control"] == "no-store"
        page = (await client.get("/"))[1]
        assert "style=" not in page and "onclick" not in page and page.count("<script") == 1 and "http" not in page.replace(client.url, "")

    run(collection, test, **{**out, "a": "bm25"})


def test_markup_in_data_travels_as_text(collection, out):
    async def test(client, _):
        answer = await client.post("ask", {"query": f"the {HOSTILE}"})
        titles = ["".join(piece for piece, _ in found["title"]) for found in answer["comparison"]["documents"].values()]
        assert HOSTILE in titles and answer["comparison"]["query"] == f"the {HOSTILE}"
        response, page = await client.get("/")
        assert "hacked" not in page and response.content_type == "text/html"
        response, text = await client.get("/api/state")
        assert response.content_type == "application/json" and HOSTILE.replace('"', '\\"') in text

    run(collection, test, **out)


def test_only_loopback_is_listened_on(collection, out, caplog):
    """Where `serve` listens, 127.0.0.1 is answered; another address of this machine, and even of loopback, is not."""
    def knock():
        try:
            while not (found := re.search(r"Open http://127\.0\.0\.1:(\d+)/", caplog.text)):
                time.sleep(0.01)
            others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} | {"127.0.0.2"}
            for host in ("127.0.0.1", *(others - {"127.0.0.1"})):
                with socket.socket() as knocking:
                    knocking.settimeout(2)
                    answered[host] = knocking.connect_ex((host, int(found[1]))) == 0
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    answered: dict[str, bool] = {}
    caplog.set_level("INFO", "readqg")
    with session_of(collection, **{**out, "a": "bm25"}) as session:
        knocking = threading.Thread(target=knock, daemon=True)
        knocking.start()
        assert serve(session) == 128 + signal.SIGTERM
        knocking.join(10)
    assert answered.pop("127.0.0.1") and "127.0.0.2" in answered and not any(answered.values())


def test_a_query_that_fails_is_explained_and_passed_over(collection, out, tmp_path):
    """A model that gives NaN wherever `shock` occurs."""
    texts = {"documents": {"d1": "wing flow", "d2": "heat"}, "queries": {"q1": "flow", "q2": "shock heat", "q3": "wing"}}
    for name, rows in texts.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"_id": i, "text": text}) + "\n" for i, text in rows.items()))
    model = BertForSequenceClassification.from_pretrained(shutil.copytree(collection / "a", tmp_path / "model"))
    word = AutoTokenizer.from_pretrained(tmp_path / "model").convert_tokens_to_ids("shock")
    model.bert.embeddings.word_embeddings.weight.data[word] = float("nan")
    model.save_pretrained(tmp_path / "model")

    async def test(client, session):
        asked = []
        for query_id in session.rankings.queries:
            answer = await client.post("next", status=422 if query_id == "q2" else 200)
            if query_id == "q2":
                assert "a model gives nan" in answer["error"]
            else:
                asked.append(answer["comparison"]["query_id"])
                await client.post("choice", {"query_id": asked[-1], "choice": "skip"})
        answer = await client.post("next")
        assert sorted(asked) == ["q1", "q3"] and answer["comparison"] is None and answer["progress"]["left_over"] == 0
        assert "q2" not in session.judgments.shown

    changes = {name: str(tmp_path / f"{name}.jsonl") for name in texts}
    run(collection, test, **{**out, **changes, "a": str(tmp_path / "model"), "b": "bm25"})


def test_what_is_asked_goes_before_what_is_ranked_ahead(collection, out, monkeypatch):
    """A query that is ranked while another is read ends when one is typed, and is ranked anew when its turn comes."""
    rank, begun, ended = Rankings.rank, threading.Event(), []

    def slow(self, query_id, query, alive):
        if query_id == ahead[0] and not ended:
            begun.set()
            try:
                while not time.sleep(0.01):
                    alive()
            except BaseException:
                ended.append(query_id)
                raise
        return rank(self, query_id, query, alive)

    monkeypatch.setattr(Rankings, "rank", slow)
    ahead = []

    async def test(client, session):
        ahead.append(list(session.rankings.queries)[1])
        view = (await client.post("next"))["comparison"]
        assert await asyncio.to_thread(begun.wait, 10) and not ended
        typed = await asyncio.wait_for(client.post("ask", {"query": "heat of the wing"}), 10)
        assert typed["comparison"]["query"] == "heat of the wing" and ended == ahead
        await client.post("choice", {"query_id": view["query_id"], "choice": "tie"})
        assert (await client.post("next"))["comparison"]["query_id"] == ahead[0]

    run(collection, test, **{**out, "a": "bm25"})


def test_the_end_reveals_the_names_and_stops(collection, out, tmp_path):
    async def test(client, session):
        view = (await client.post("next"))["comparison"]
        await client.post("choice", {"query_id": view["query_id"], "choice": "right"})
        summary = await client.post("end")
        assert (summary["a"], summary["b"], summary["ended"], summary["judged"]) == (session.config.a, session.config.b, True, 1)
        await asyncio.wait_for(client.server.stop.wait(), 10)
        await client.post("choice", {"query_id": view["query_id"], "choice": "left"}, status=409)
        assert list(session.judgments.choices.values()) == ["right"]

    run(collection, test, **out)


def test_an_end_whose_files_could_not_be_written_is_ended_once_more(collection, out, monkeypatch):
    async def test(client, session):
        write = results.write_judgments
        monkeypatch.setattr(results, "write_judgments", _full)
        assert "no space" in (await client.post("end", status=507))["error"]
        assert session.judgments.ended and not client.server.stop.is_set()
        monkeypatch.setattr(results, "write_judgments", write)
        assert (await client.post("end"))["ended"]
        await asyncio.wait_for(client.server.stop.wait(), 10)

    run(collection, test, **{**out, "a": "bm25"})


def _full(*_):
    raise FolderError("no space is left")
