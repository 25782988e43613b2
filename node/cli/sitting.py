"""Sitting: one conversation in numbered steps: headings, questions, and what came of each step.

On a terminal it asks until an answer will do. Elsewhere it takes flags, or with -y what it would
have proposed, and never waits for anybody. Knows no step by name.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from market.errors import MarketError, SpecError
from node.cli.output import say
from node.cli.run import UnconfirmedError

DONE: Final = "done"
BEFORE: Final = "was done"  # by an earlier sitting, or by hand
SKIPPED: Final = "skipped"
WAITS: Final = "waits"  # for something that only its owner can do
FAILED: Final = "failed"
LEFT: Final = "left"  # not come to


@dataclass
class Step:
    """One step: what came of it, and the sentence that was said last."""

    name: str
    outcome: str = LEFT
    found: str = ""


@dataclass
class Sitting:
    """The steps in their order, and how answers come."""

    names: Sequence[str]
    yes: bool
    as_json: bool
    skip: Sequence[str] = ()
    steps: list[Step] = field(default_factory=list)
    at: int = -1

    def __post_init__(self) -> None:
        """Raises SpecError for a step to skip that is none."""
        for name in self.skip:
            if name not in self.names:
                raise SpecError(
                    f"--skip {name}: no such step", hint=f"one of {', '.join(self.names)}"
                )
        self.steps = [Step(name) for name in self.names]

    @property
    def terminal(self) -> bool:
        """Whether somebody can be asked."""
        return sys.stdin.isatty() and sys.stderr.isatty() and not self.as_json

    @property
    def asks(self) -> bool:
        """Whether proposals are shown for a yes rather than taken."""
        return self.terminal and not self.yes

    @property
    def step(self) -> Step:
        """The one we are at."""
        return self.steps[self.at]

    def begin(self, name: str) -> bool:
        """The heading of a step; False if it is to be skipped."""
        self.at = list(self.names).index(name)
        say(f"[{self.at + 1}/{len(self.names)}] {name}")
        self.step.outcome = FAILED
        if name in self.skip:
            self.end("skipped, as asked for", SKIPPED)
            return False
        return True

    def note(self, text: str) -> None:
        """A sentence below the heading."""
        say(f"  {text}")

    def end(self, text: str, outcome: str = DONE) -> None:
        """What came of the step."""
        self.note(text)
        self.step.outcome, self.step.found = outcome, text

    def ask(
        self,
        what: str,
        flag: str,
        given: str | None,
        default: str | None,
        check: Callable[[str], Any],
    ) -> str:
        """An answer that passes `check`: the flag's, or the terminal's, or with -y the default.

        Raises SpecError for a flag that does not pass, UnconfirmedError where nobody can be asked.
        """
        if given is not None:
            try:
                check(given)
            except MarketError as problem:
                raise SpecError(f"{flag}: {problem}", hint=problem.hint) from None
            return given
        while True:
            answer = self._answer(what, flag, default)
            try:
                check(answer)
            except MarketError as problem:
                if not self.terminal:
                    raise SpecError(f"{what}: {problem}", hint=f"give {flag}") from None
                self.note(_sentence(problem))
                continue
            return answer

    def agree(self, question: str, flag: str) -> bool:
        """Whether to go on with something; -y says yes."""
        if self.yes:
            return True
        if not self.terminal:
            raise UnconfirmedError(
                f"{question} There is no terminal to ask on", hint=f"say yes with -y, or {flag}"
            )
        return self._typed(f"{question} [Y/n] ").lower() in ("", "y", "yes")

    def pause(self, question: str) -> bool:
        """Whether something was done elsewhere meanwhile; only a terminal can say so."""
        return self.terminal and self._typed(f"{question} [y/N] ").lower() in ("y", "yes")

    def _answer(self, what: str, flag: str, default: str | None) -> str:
        if self.yes and default is not None:
            return default
        if not self.terminal:
            instead = "" if default is None else f", or -y for {default or 'none'}"
            raise UnconfirmedError(
                f"{what}: there is no terminal to ask on", hint=f"give {flag}{instead}"
            )
        proposed = "" if default is None else f" [{default or 'none'}]"
        return self._typed(f"{what}{proposed}: ") or default or ""

    def _typed(self, prompt: str) -> str:
        print(f"  {prompt}", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            say("")
            raise UnconfirmedError("the terminal was closed", hint="the same command goes on")
        return line.strip()


def _sentence(problem: MarketError) -> str:
    return f"{problem}" + (f" ({problem.hint})" if problem.hint else "")
