"""`readqg compare` from its start to its end, and what its judgments are good for afterwards."""

import asyncio
import json
import logging
import os
import re
import signal
import socket
import threading

import ir_measures
import pytest
from aiohttp import ClientSession, CookieJar

from readqg import api, cli
from readqg.comparing.server import KEY_HEADER
from readqg.config import EvaluateConfig, VerifyConfig
from readqg.corpus import read_judgments, read_texts
from readqg.errors import ConfigError, FolderError, RunError
from tests.comparing.collection import config_of, write_collection


@pytest.fixture
def folder(tmp_path):
    return write_collection(tmp_path)


class Person(threading.Thread):
    """Waits for the address that the command tells, and does `work(post)` at it."""

    def __init__(self, work):
        super().__init__(daemon=True)
        self.work, self.address, self.error = work, None, None
        self.told = threading.Event()

    def emit(self, message):
        found = re.search(r"Open (http://127\.0\.0\.1:\d+)/\?key=(\S+)", message)
        if found:
            self.address = found.groups()
            self.told.set()

    def run(self):
        try:
            assert self.told.wait(120)
            asyncio.run(self._work())
        except BaseException as error:  # told in the main thread, which waits for the command
            self.error = error
            os.kill(os.getpid(), signal.SIGINT)

    async def _work(self):
        url, key = self.address
        async with ClientSession(cookie_jar=CookieJar(unsafe=True)) as http:
            async with http.get(f"{url}/?key={key}") as page:
                assert page.status == 200

            async def post(name, **body):
                async with http.post(f"{url}/api/{name}", json=body, headers={"Origin": url, KEY_HEADER: key}) as answer:
                    assert answer.status == 200, await answer.text()
                    return await answer.json()

            await self.work(post)


def compare_with(work, command, *args):
    """What `command(*args)` gives while somebody does `work` at its page."""
    person = Person(work)
    handler = logging.Handler()
    handler.emit = lambda record: person.emit(record.getMessage())
    logging.getLogger("readqg").addHandler(handler)
    logging.getLogger("readqg").setLevel(logging.INFO)
    person.start()
    try:
        found = command(*args)
    finally:
        logging.getLogger("readqg").removeHandler(handler)
    person.join(30)
    if person.error is not None:
        raise person.error
    return found


async def judge_three(post):
    for choice in ("left", "right", "tie"):
        view = (await post("next"))["comparison"]
        for doc_id in dict.fromkeys((*view["left"], *view["right"])):
            await post("grade", query_id=view["query_id"], doc_id=doc_id, relevance=int(int(doc_id[1:]) % 3 == 0))
        await post("choice", query_id=view["query_id"], choice=choice)


async def three_and_ctrl_c(post):
    await judge_three(post)
    os.kill(os.getpid(), signal.SIGINT)


async def one_of_ones_own_and_the_end(post):
    view = (await post("ask", query="heat of the wing"))["comparison"]
    await post("choice", query_id=view["query_id"], choice="skip" if view["same"] else "left")
    await post("end")


def test_from_start_to_end_and_into_evaluate(folder, capsys, caplog):
    config = config_of(folder)
    stopped = compare_with(three_and_ctrl_c, api.compare, config)
    assert (stopped["judged"], stopped["ties"], stopped["ended"], stopped["exit_code"]) == (3, 1, False, 130)
    assert "To tell 60:40 from a coin with 80% power: 199 judged queries without a tie." in caplog.text
    shown = capsys.readouterr().err
    assert "3 queries judged" in shown and "Too few to tell: 197 more" in shown
    assert stopped["more_wins"] + stopped["fewer_wins"] == 2 and "wins_a" not in stopped and "wins_a" not in json.dumps(
        json.loads((folder / "out" / "summary.json").read_text()))
    assert not (folder / "out" / "preferences.tsv").exists(), "nobody is to know before the end"
    with pytest.raises(FolderError, match=r"models\.b: the folder has"):
        api.compare(config_of(folder, b="bm25"))
    with pytest.raises(FolderError, match=r"shown: the folder has 5, this command 6"):
        api.compare(config_of(folder, shown=6))
    with pytest.raises(FolderError, match=r"share: the folder has 0\.6, this command 0\.75"):
        api.compare(config_of(folder, share=0.75))

    done = compare_with(one_of_ones_own_and_the_end, api.compare, config)
    assert (done["ended"], done["a"], done["b"]) == (True, config.a, config.b) and "exit_code" not in done
    assert len(read_texts(folder / "out" / "queries.jsonl")) == 4
    assert json.loads((folder / "out" / "summary.json").read_text()) == done
    assert api.verify(VerifyConfig(folder=config.out)) == {"folders": 1, "problems": 0}

    qrels = read_judgments(folder / "out" / "qrels" / "test.tsv")
    assert sum(map(len, qrels.values())) == done["graded"]
    out = folder / "out"
    assert {(q.query_id, q.doc_id, q.relevance) for q in ir_measures.read_trec_qrels(str(out / "qrels.trec"))} == {
        (query, doc, grade) for query, docs in qrels.items() for doc, grade in docs.items()}
    head, *rows = [line.split("\t") for line in (out / "preferences.tsv").read_text().splitlines()]
    assert head == ["query_id", "query", "preferred"] and [row[2] for row in rows].count("tie") == done["ties"]
    assert [row[2] for row in rows].count("b") == done["wins_b"] and len(rows) == done["judged"]
    evaluated = api.evaluate(EvaluateConfig(
        run=str(out / "b.trec"), against=str(out / "a.trec"), qrels=str(out / "qrels" / "test.tsv"), measures=("P@5", "nDCG@5")))
    assert (evaluated["judged"], evaluated["queries"], evaluated["unanswered"], evaluated["unjudged"]) == (3, 3, 0, 1)
    events = [json.loads(line) for line in (out / "judgments.jsonl").read_text().splitlines()]
    for side, found in (("b", evaluated), ("a", evaluated["against"])):
        relevant = [sum(int(d[1:]) % 3 == 0 for d in e[side]) / 5 for e in events if e["event"] == "shown" and e["query_id"] in qrels]
        assert found["measures"]["P@5"] == pytest.approx(sum(relevant) / 3)


def test_an_ended_comparison_only_tells_its_result_again(folder, capsys):
    async def end(post):
        await post("end")

    flags = ["--documents", str(folder / "documents.jsonl"), "--out", str(folder / "out"), "--port", "0", "--json"]

    def command():
        with pytest.raises(SystemExit) as stop:
            cli.main(["compare", "bm25", str(folder / "a"), *flags, "--compute.threads", "1"])
        return stop.value.code, json.loads(capsys.readouterr().out.splitlines()[-1])

    code, first = compare_with(end, command)
    assert (code, first["command"], first["a"], first["verdict"]) == (0, "compare", "bm25", "too few to tell")
    assert command() == (0, first)


def test_a_port_that_is_taken_is_said(folder):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(RunError, match=rf"port {port} of 127\.0\.0\.1 cannot be had.*--port 0"):
            api.compare(config_of(folder, a="bm25", port=port))


def test_a_folder_in_a_store_is_refused(folder):
    with pytest.raises(ConfigError, match="a file system"):
        api.compare(config_of(folder, out="s3://bucket/out"))


def test_both_names_may_be_left_out(capsys):
    with pytest.raises(SystemExit):
        cli.main(["compare", "one", "two", "--documents", "d", "--out", "o", "--dry-run"])
    assert "a: one\nb: two\n" in capsys.readouterr().out
