"""docs/reference.md is what the config classes say."""

import re

from readqg import api, cli, config
from tools import reference


def test_the_committed_reference_is_what_the_classes_give():
    assert reference.FILE.read_text() == reference.reference(), f"a config has changed: renew the page with `{reference.RENEW}`"


def test_every_field_says_what_it_is():
    bare = [f"{cls.__name__}.{name}" for cls in reference._classes() for name, info in cls.model_fields.items()
            if not info.description and reference._settings(info.annotation) is None]
    assert not bare, "give these fields a docstring"


def test_every_link_within_the_page_leads_somewhere():
    page = reference.reference()
    anchors = {line.removeprefix("## ").lower() for line in page.splitlines() if line.startswith("## ")}
    anchors |= {part.split('"')[0] for part in page.split('<a id="')[1:]}
    links = {part.split(")")[0] for part in page.split("](#")[1:]}
    assert links and links <= anchors


def test_what_a_command_is_said_to_return_it_returns(tmp_path):
    (tmp_path / "corpus.jsonl").write_text('{"_id": "a", "title": "", "text": "a wing"}\n{"_id": "b", "title": "", "text": "a shock"}\n')
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "wing"}\n')
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\ta\t1\n")
    (tmp_path / "run.trec").write_text("q Q0 a 1 2.0 x\nq Q0 b 2 1.0 x\n")
    corpus, run = str(tmp_path / "corpus"), str(tmp_path / "run.trec")
    imported = api.import_corpus(config.ImportConfig(source=str(tmp_path), out=corpus))
    (tmp_path / "corpus" / "documents" / "_attempts").mkdir(exist_ok=True)
    found = {
        "import": imported,
        "verify": api.verify(config.VerifyConfig(folder=corpus)),
        "clean": api.clean(config.CleanConfig(folder=corpus)),
        "evaluate": api.evaluate(config.EvaluateConfig(run=run, against=run, qrels=str(tmp_path / "qrels" / "test.tsv"))),
    }
    for name, summary in found.items():
        said = set(re.findall("`(\\w+)`", cli.api_doc(name, 1)))
        assert said and set(summary) - {"out"} <= said, name
        assert said - set(summary) <= _inner(list(summary.values())), name


def _inner(value: object) -> set[str]:
    """The names in what a summary holds."""
    if isinstance(value, dict):
        return {*value, *_inner(list(value.values()))}
    return set().union(*map(_inner, value)) if isinstance(value, list) else set()
