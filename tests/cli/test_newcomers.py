"""What docs/NEWCOMERS.md shows is what comes back: typed on a real market, mistakes included."""

from __future__ import annotations

import os

import pytest

from scripts import newcomers


@pytest.mark.slow
@pytest.mark.chain
@pytest.mark.sandbox
@pytest.mark.skipif(
    os.geteuid() != 0 and os.environ.get("CI") != "true", reason="a provider needs root"
)
def test_every_word_of_it_is_true() -> None:
    _, problems = newcomers.perform(newcomers.PAGE.read_text(), write=False)
    assert problems == []


@pytest.mark.parametrize(
    ("expected", "came", "fits"),
    [
        (["a … c"], ["a b c"], True),
        (["a … c"], ["a b d"], False),
        (["a", "...", "z"], ["a", "z"], True),
        (["a", "...", "z"], ["a", "b", "c", "z"], True),
        (["a"], ["a", "b"], False),
        ([], ["[exit 1]"], False),
        (["1.5 s (x)"], ["1x5 s (x)"], False),
    ],
)
def test_lines_are_compared_but_for_what_is_left_out(
    expected: list[str], came: list[str], fits: bool
) -> None:
    assert (newcomers.differs(expected, came) == "") is fits


def test_the_page_is_read_as_it_is_meant() -> None:
    text = "# t\n## One\n```console\n$ a <<X\n> b\n> X\nout\n$ c\n```\nwords\n## Two\nnone\n"
    (chapter,) = newcomers.chapters(text)
    assert (chapter.title, [step.command for step in chapter.steps]) == (
        "One",
        ["a <<X\nb\nX", "c"],
    )
    assert [step.expected for step in chapter.steps] == [["out"], []]
