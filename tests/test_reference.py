"""docs/reference.md is what the config classes say."""

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
