"""What the pages show is what comes back: typed on a real market, mistakes included."""

from __future__ import annotations

import os
from dataclasses import dataclass

import pytest

from scripts import newcomers
from tests.cli import shown


@dataclass(frozen=True)
class Hour:
    """What went wrong in the newcomers' market: of their page, and of all other pages."""

    typed: list[str]
    shown: list[str]


@pytest.fixture(scope="module")
def hour(tmp_path_factory: pytest.TempPathFactory) -> Hour:
    """One market for both: the newcomers type their page, then all other commands are run there."""
    wrong: list[str] = []
    home = tmp_path_factory.mktemp("anybody")
    _, problems = newcomers.perform(
        newcomers.PAGE.read_text(),
        write=False,
        guest=lambda people: wrong.extend(shown.run_all(people, home)),
    )
    return Hour(problems, wrong)


needs_root = pytest.mark.skipif(
    os.geteuid() != 0 and os.environ.get("CI") != "true", reason="a provider needs root"
)


@pytest.mark.slow
@pytest.mark.chain
@pytest.mark.sandbox
@needs_root
def test_every_word_of_it_is_true(hour: Hour) -> None:
    assert hour.typed == []


@pytest.mark.slow
@pytest.mark.chain
@pytest.mark.sandbox
@needs_root
def test_every_command_of_the_other_pages_works(hour: Hour) -> None:
    assert hour.shown == []


def test_every_command_that_is_shown_is_run_somewhere() -> None:
    assert shown.unmapped() == []
    assert len(shown.shown()) > 40
    print("not run here:", *(f"  {one}: {why}" for one, why in shown.NOT_HERE.items()), sep="\n")


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
