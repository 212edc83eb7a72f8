"""What is marked is what BM25 takes for a word of the query, and an excerpt loses nothing of the text."""

from hypothesis import given, settings
from hypothesis import strategies as st

from readqg.excerpts import LONG_CHARS, SHORT_CHARS, excerpt
from readqg.words import Marker, tokenizer

TEXTS = st.text(st.sampled_from("aAbBß éñ's’.,-_ \n12flows wing"), max_size=900)


def marked(query, text):
    return [text[start:stop] for start, stop in Marker(query).spans(text)]


def joined(pieces):
    return "".join(text for text, _ in pieces)


def test_words_are_marked_by_their_stems():
    text = "Flow and flowing wings; the WING's flows, over-flow. A flower."
    assert marked("wings of the flow", text) == ["Flow", "flowing", "wings", "WING's", "flows", "flow"]


def test_stop_words_are_not_marked():
    assert marked("what is the flow", "is the what") == ["what"]


@settings(deadline=None, max_examples=60)
@given(TEXTS, TEXTS)
def test_a_word_is_marked_just_where_bm25_finds_it(query, text):
    words = tokenizer()
    wanted = set(next(words.streaming_tokenize([query], allow_empty=False)))
    for word in text.lower().split():
        ids = next(words.streaming_tokenize([word], update_vocab=False, allow_empty=False))
        assert bool(Marker(query).spans(word)) == any(i in wanted for i in ids)


@settings(deadline=None, max_examples=60)
@given(TEXTS, st.text(st.sampled_from("wing flow ab\n"), max_size=40))
def test_an_excerpt_is_a_part_of_the_text_and_the_long_form_is_all_of_it(text, query):
    found = excerpt(Marker(query), {"doc_id": "d", "title": "", "text": text})
    short = joined(found["short"])
    assert len(short) <= SHORT_CHARS + 4
    if found["long"] is None:
        assert short == text
    else:
        assert joined(found["long"]) == text
        assert short.removeprefix("… ").removesuffix(" …") in text


def test_the_short_form_is_where_the_words_are():
    text = "nothing here " * 100 + "the shock wave meets the boundary layer " + "nothing there " * 100
    found = excerpt(Marker("shock boundary layer"), {"doc_id": "d", "title": "Shocks", "text": text})
    assert [text for text, mark in found["short"] if mark] == ["shock", "boundary", "layer"]
    assert found["title"] == [("Shocks", True)]
    assert joined(found["short"]).startswith("… ") and joined(found["short"]).endswith(" …")


def test_a_text_without_end_is_cut_and_says_so():
    found = excerpt(Marker("q"), {"doc_id": "d", "title": "t" * 10_000, "text": "x" * (LONG_CHARS + 5)})
    assert found["left_out"] == 5
    assert len(joined(found["long"])) == LONG_CHARS and len(joined(found["title"])) <= SHORT_CHARS
