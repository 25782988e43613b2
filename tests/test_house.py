"""The house keeps its own rules: STYLE 1-4, 9, 13 and 17 as tests, driven by the tables below.

Each rule is a function from one parsed file to the sentences it has to say about it, and is shown
to be able to fail by an example in BROKEN.
"""

import ast
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# The floors of the house, from the ground up. A module imports ours from lower floors only; those
# on one floor are twins and never import each other. "x.*" is one room: x and all inside it.
FLOORS: tuple[tuple[str, ...], ...] = (
    # market, the ground and the waist
    ("market", "market.errands", "market.errors", "market.limits"),
    ("market.codec", "market.units"),
    ("market.certificate", "market.overlay", "market.product"),
    ("market.terms",),
    ("market.messages", "market.escrow", "market.chainlog", "market.image", "market.reach"),
    ("market.signing", "market.voucher", "market.coordinates", "market.models", "market.ledger"),
    ("market.reallocation", "market.reputation", "market.statement"),
    ("market.progress",),
    # market, the matching engine
    ("market.throughput", "market.names", "market.columns"),
    ("market.cost",),
    ("market.constraints", "market.scan"),
    ("market.best",),
    ("market.rows",),
    ("market.lexicon",),
    ("market.book",),
    ("market.pairs", "market.matching"),
    ("market.assignment",),
    ("market.explain",),
    ("market.waiting",),
    # market, the scheduler
    ("market.site", "market.fleet", "market.policy.finish"),
    ("market.fragmentation", "market.slots"),
    (
        "market.policy.fcfs",
        "market.policy.priority",
        "market.policy.fair",
        "market.policy.cost",
        "market.policy.latency",
        "market.policy.load",
        "market.backfill",
        "market.preemption",
        "market.placement",
    ),
    ("market.defrag",),
    ("market.policy", "market.contest"),
    ("market.simulate", "market.simulate.training", "market.simulate.churn"),
    ("market.simulate.rounds",),
    ("market.simulate.jobs",),
    ("market.simulate.readers", "market.simulate.queueing"),
    ("market.simulate.metrics", "market.simulate.placing", "market.simulate.moving"),
    ("market.simulate.planners",),
    # market, agreements and jobs
    ("market.agreement",),
    ("market.unvouched",),
    ("market.events", "market.duties", "market.job"),
    ("market.apply", "market.job_apply", "market.job_duties", "market.moving", "market.spec"),
    ("market.jobschema",),
    # node, one running node
    ("node", "node.ports"),
    (
        "node.config",
        "node.mail",
        "node.artifacts",
        "node.nosandbox",
        "node.forgetting",
        "node.story",
        "node.atlas",
        "node.bandwidth",
        "node.standing",
    ),
    ("node.jobtext", "node.trace"),
    ("node.bulletin", "node.keeper"),
    ("node.sources",),
    ("node.images",),
    ("node.holdings", "node.machine", "node.tunnels", "node.tunnels.splice"),
    ("node.tunnels.connect", "node.tunnels.overlay"),
    ("node.tunnels.accept", "node.tunnels.execute", "node.tunnels.gang"),
    ("node.tunnels.dial", "node.tunnels.enter"),
    ("node.certify",),
    ("node.demands", "node.shop", "node.challenger"),
    ("node.queue", "node.requester", "node.wishes"),
    ("node.tunnels.egress",),
    ("node.staging",),
    ("node.provider",),
    ("node.inbox", "node.desk", "node.desk.rows"),
    (
        "node.desk.jobs",
        "node.desk.images",
        "node.desk.certificates",
        "node.desk.market",
        "node.desk.money",
        "node.desk.books",
        "node.desk.network",
        "node.desk.earning",
        "node.desk.series",
        "node.desk.wallet",
        "node.desk.gauges",
        "node.desk.plans",
        "node.desk.selling",
    ),
    ("node.control",),
    ("node.app",),
    # above the app, so that only what wires the node together can reach them
    (
        "node.adapters",
        "node.adapters.libp2p.*",
        "node.adapters.ethereum.*",
        "node.adapters.oci.*",
        "node.adapters.sqlite.*",
        "node.adapters.disk.*",
        "node.adapters.devices.*",
        "node.adapters.keystore.*",
        "node.adapters.system.*",
        "node.adapters.registry.*",
        "node.adapters.outside.*",
        "node.adapters.bench.*",
    ),
    ("node.adapters.engine.*",),  # oci's house with another who makes the containers
    ("node.web.*",),
    ("node.live",),
    ("node.cli.selling",),
    ("node.cli.readers",),
    ("node.cli.settings",),
    ("node.client", "node.client.http", "node.client.query"),
    ("node.client.jobfile", "node.client.download"),
    ("node.client.submission",),
    ("node.client.souk",),
    ("node.client.aio",),
    ("node.cli.*",),
)

# An adapter fills a port: it may know the rules' words, its port and its settings, and no more.
ADAPTERS_MAY_KNOW = ("market", "node.ports", "node.config")
# One room more, for one that is the same house with another who makes the containers.
ADAPTERS_MAY_ALSO_KNOW = {"node.adapters.engine": "node.adapters.oci"}

PURE = "market/"
IMPURE_MODULES = frozenset(
    [
        "asyncio",
        "logging",
        "multiprocessing",
        "node",
        "os",
        "pathlib",
        "random",
        "scripts",
        "secrets",
        "select",
        "socket",
        "sqlite3",
        "structlog",
        "subprocess",
        "tempfile",
        "tests",
        "threading",
        "time",
        "trio",
        "uuid",
    ]
)

# The machine's clock, dice and environment belong to the adapters and to the edge.
EDGE = (
    "node/adapters/",
    "node/cli/",
    "node/client/",
    "node/config.py",
    "node/live.py",
    "scripts/",
    "tests/",
    "examples/",
)
EDGE_ONLY_MODULES = frozenset({"time", "random", "uuid"})
EDGE_ONLY_NAMES = frozenset({"os.environ", "os.getenv"})

VAGUE_NAMES = frozenset(
    {"base", "common", "helper", "helpers", "manager", "service", "util", "utils"}
)

FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70
SEEDED = frozenset({"market/simulate/jobs.py"})  # is handed a seeded Random, and names its type
LONG_FILES: dict[str, int] = {
    "node/adapters/oci/probe.py": 410,  # a list; its two sequels stand beside it
    "node/ports.py": 800,  # the waist: one page to read before any adapter
    "market/messages.py": 430,  # the closed union: one page to read the protocol from
    "market/apply.py": 470,  # every event in one match: the only place where a phase changes
    "market/spec.py": 440,  # the job file's keys and their readers: one page to look them up
    "market/duties.py": 460,  # half of it names the duties, half derives them: one thought
    "node/keeper.py": 420,  # the four beats and what may be told to it
    "market/book.py": 420,  # one structure, kept whole while it is measured
    "node/adapters/oci/driver.py": 430,  # the port's methods, each short
    "node/adapters/oci/shim.py": 500,  # runs alone under `python -I -S`: it cannot import ours
}  # path: lines, for the few that are better whole; say why
LONG_FUNCTIONS: dict[str, int] = {
    "node/app.py:run_node": 90,  # the wiring: a line or two for each room
    "node/cli/simulate.py:simulate": 115,  # its signature and help are two thirds of it
}  # path:function: lines, likewise

TODO_WITHOUT_NUMBER = re.compile(r"(#|//)\s*(TODO|FIXME|XXX)\b(?!\s*\(?#\d)")
# Homes of people, and this very checkout unless its folder is called what anybody would call it.
# A container's own /work or /root is nobody's machine.
MACHINE_PATH = re.compile(
    r"(?<![\w.])(/home/(?!user\b)[a-z]\w*/|/Users/[A-Za-z]\w*/|[A-Z]:\\Users\\|/root/\.\w)"
    + (f"|{re.escape(str(ROOT))}\\b" if len(ROOT.parts) > 2 and ROOT.name != "gridsouk" else "")
)


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One Python file, its path relative to the root with forward slashes."""

    path: str
    text: str
    tree: ast.Module

    @property
    def module(self) -> str:
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    def is_in(self, *places: str) -> bool:
        return self.path.startswith(places)


def parse(path: str, text: str) -> SourceFile:
    return SourceFile(path, text, ast.parse(text))


# ---- floors --------------------------------------------------------------------------------------


def floor_entry(module: str) -> tuple[int, str] | None:
    """The floor's number and the table's entry for `module`; the longest room wins."""
    found = [
        (len(entry), number, entry)
        for number, floor in enumerate(FLOORS)
        for entry in floor
        if entry == module or (entry.endswith(".*") and f"{module}.".startswith(entry[:-1]))
    ]
    return max(found)[1:] if found else None


def imports(file: SourceFile, is_module: Callable[[str], bool]) -> Iterator[tuple[int, str, bool]]:
    """Line, full module name, and whether the import hides inside a function."""
    lazy = {
        id(node)
        for function in functions(file.tree)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    for node in ast.walk(file.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, id(node) in lazy
        elif isinstance(node, ast.ImportFrom):
            source = "." * node.level + (node.module or "")
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                yield node.lineno, inner if is_module(inner) else source, id(node) in lazy


def is_ours(module: str) -> bool:
    return module.partition(".")[0] in {"market", "node"}


def is_module_here(module: str) -> bool:
    place = ROOT / module.replace(".", "/")
    return is_ours(module) and (place.with_suffix(".py").is_file() or place.is_dir())


def imports_go_down(
    file: SourceFile, is_module: Callable[[str], bool] = is_module_here
) -> Iterator[str]:
    if not file.is_in("market/", "node/") or file.path == "node/__init__.py":
        return  # the package's front names what a notebook may use, on demand
    own = floor_entry(file.module)
    if own is None:
        yield (
            f"{file.path}: {file.module} stands on no floor; add it to FLOORS in "
            "tests/test_house.py, on the lowest floor above all that it imports"
        )
        return
    for line, name, _ in imports(file, is_module):
        if name.startswith("."):
            yield f"{file.path}:{line}: relative import; write the whole path"
        elif name.partition(".")[0] in {"tests", "scripts"}:
            yield f"{file.path}:{line}: imports {name}, which is not shipped"
        elif is_ours(name):
            other = floor_entry(name)
            if other is not None and other[1] != own[1] and other[0] >= own[0]:
                direction = "sideways to its twin" if other[0] == own[0] else "up to"
                yield f"{file.path}:{line}: {file.module} imports {direction} {name}"


def adapters_hold_no_rules(file: SourceFile) -> Iterator[str]:
    if not file.is_in("node/adapters/"):
        return
    own = floor_entry(file.module)
    also = [
        known
        for room, known in ADAPTERS_MAY_ALSO_KNOW.items()
        if f"{file.module}.".startswith(f"{room}.")
    ]
    for line, name, _ in imports(file, is_module_here):
        known = any(
            name == one or name.startswith(f"{one}.") for one in (*ADAPTERS_MAY_KNOW, *also)
        )
        at_home = name == "node.adapters" or floor_entry(name) == own
        if is_ours(name) and not known and not at_home:
            yield f"{file.path}:{line}: an adapter imports {name}; it may know its port only"


def market_is_pure(file: SourceFile) -> Iterator[str]:
    if not file.is_in(PURE):
        return
    for line, name, _ in imports(file, is_module_here):
        if name.partition(".")[0] in IMPURE_MODULES and file.path not in SEEDED:
            yield f"{file.path}:{line}: imports {name}; what it needs is handed in by node/"
    for node in ast.walk(file.tree):
        if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith):
            yield f"{file.path}:{node.lineno}: async in market/; decide here, act in node/"
        elif isinstance(node, ast.Call) and dotted(node.func) in {"open", "print", "input"}:
            yield f"{file.path}:{node.lineno}: {dotted(node.func)}() in market/"


def no_lazy_imports(file: SourceFile) -> Iterator[str]:
    """None in market/; in node/, ours only outside the CLI, which may be lazy to start fast."""
    for line, name, lazy in imports(file, is_module_here):
        edge = file.is_in("node/cli/") or file.path == "node/__init__.py"  # PEP 562: on demand
        dodges = file.is_in("node/") and not edge and is_ours(name)
        if lazy and (file.is_in(PURE) or dodges):
            yield f"{file.path}:{line}: imports {name} inside a function"


# ---- size and names ------------------------------------------------------------------------------


def files_are_small(file: SourceFile) -> Iterator[str]:
    lines = len(file.text.splitlines())
    allowed = LONG_FILES.get(file.path, FILE_LINES_MAX)
    if file.is_in("market/", "node/") and lines > allowed:
        yield f"{file.path}: {lines} lines, {allowed} at most; split it by what changes together"


def functions_are_small(file: SourceFile) -> Iterator[str]:
    if not file.is_in("market/", "node/", "scripts/"):
        return
    for function in functions(file.tree):
        lines = (function.end_lineno or function.lineno) - function.lineno + 1
        allowed = LONG_FUNCTIONS.get(f"{file.path}:{function.name}", FUNCTION_LINES_MAX)
        if lines > allowed:
            yield (
                f"{file.path}:{function.lineno}: {function.name} has {lines} lines, "
                f"{allowed} at most"
            )


def modules_say_what_they_are(file: SourceFile) -> Iterator[str]:
    if file.text.strip() and not ast.get_docstring(file.tree):
        yield f"{file.path}: open with a docstring: what it is and what it must never know"


def names_say_something(file: SourceFile) -> Iterator[str]:
    for part in file.module.split("."):
        if part in VAGUE_NAMES:
            yield f"{file.path}: '{part}' says nothing; name it after what is in it"


# ---- errors, time, chance ------------------------------------------------------------------------


def no_bare_except(file: SourceFile) -> Iterator[str]:
    for node in ast.walk(file.tree):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield f"{file.path}:{node.lineno}: bare except; name what you expect"


def market_swallows_nothing(file: SourceFile) -> Iterator[str]:
    if not file.is_in(PURE):
        return
    for node in ast.walk(file.tree):
        if not isinstance(node, ast.ExceptHandler) or node.type is None:
            continue
        caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        too_wide = any(dotted(one) in {"Exception", "BaseException"} for one in caught)
        if too_wide and not any(isinstance(inner, ast.Raise) for inner in ast.walk(node)):
            yield f"{file.path}:{node.lineno}: catches every exception and raises none"


def time_and_chance_stay_at_the_edge(file: SourceFile) -> Iterator[str]:
    if file.is_in(*EDGE) or file.path in SEEDED:
        return
    for node in ast.walk(file.tree):
        if isinstance(node, ast.Attribute):
            names = [dotted(node)]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name in EDGE_ONLY_NAMES or name.partition(".")[0] in EDGE_ONLY_MODULES:
                yield f"{file.path}:{node.lineno}: {name} outside the edge; take it from a port"


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def dotted(node: ast.expr) -> str:
    """`a.b.c` for a name or a chain of attributes on one, else nothing."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        start = dotted(node.value)
        return f"{start}.{node.attr}" if start else ""
    return ""


# ---- text of any kind ----------------------------------------------------------------------------


def todos_have_numbers(path: str, text: str) -> Iterator[str]:
    for number, line in enumerate(text.splitlines(), 1):
        if TODO_WITHOUT_NUMBER.search(line):
            yield f"{path}:{number}: a TODO without an issue's #number"


def no_path_of_a_machine(path: str, text: str) -> Iterator[str]:
    for number, line in enumerate(text.splitlines(), 1):
        found = MACHINE_PATH.search(line)
        if found:
            yield f"{path}:{number}: names a path of one machine: {found.group()}"


# ---- the tests -----------------------------------------------------------------------------------

FILE_RULES: tuple[Callable[[SourceFile], Iterator[str]], ...] = (
    imports_go_down,
    adapters_hold_no_rules,
    market_is_pure,
    no_lazy_imports,
    files_are_small,
    functions_are_small,
    modules_say_what_they_are,
    names_say_something,
    no_bare_except,
    market_swallows_nothing,
    time_and_chance_stay_at_the_edge,
)
TEXT_RULES = (todos_have_numbers, no_path_of_a_machine)


@cache
def committed_texts() -> dict[str, str]:
    """Every text file of the project by path: those git has, or would take with `git add`."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listing.returncode == 0:
        paths = [ROOT / name for name in listing.stdout.decode().split("\0") if name]
    else:  # an unpacked archive, or a git that distrusts the folder's owner
        passed_over = {".git", ".tools", ".venv", "node_modules", "__pycache__", "out", "cache"}
        paths = [path for path in ROOT.rglob("*") if not passed_over & set(path.parts)]
    texts = {}
    for path in sorted(path for path in paths if path.is_file() and not path.is_symlink()):
        content = path.read_bytes()
        if b"\0" not in content[:4096]:
            texts[path.relative_to(ROOT).as_posix()] = content.decode(errors="replace")
    return texts


@cache
def python_files() -> tuple[SourceFile, ...]:
    return tuple(
        parse(path, text) for path, text in committed_texts().items() if path.endswith(".py")
    )


def test_there_is_a_house_to_look_at() -> None:
    assert {"market/__init__.py", "node/__init__.py", "tests/test_house.py"} <= {
        file.path for file in python_files()
    }


@pytest.mark.parametrize("rule", FILE_RULES, ids=lambda rule: rule.__name__)
def test_every_python_file_keeps(rule: Callable[[SourceFile], Iterator[str]]) -> None:
    found = [sentence for file in python_files() for sentence in rule(file)]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize("rule", TEXT_RULES, ids=lambda rule: rule.__name__)
def test_every_committed_file_keeps(rule: Callable[[str, str], Iterator[str]]) -> None:
    found = [sentence for path, text in committed_texts().items() for sentence in rule(path, text)]
    assert not found, "\n" + "\n".join(found)


def test_no_module_stands_on_two_floors() -> None:
    entries = [entry for floor in FLOORS for entry in floor]
    assert sorted(set(entries)) == sorted(entries)


# rule, path, source, what it says; an empty sentence means that the source is in order
BROKEN = (
    (imports_go_down, "market/terms.py", "import market.book", "imports up to market.book"),
    (imports_go_down, "market/terms.py", "from market import book", "imports up to market.book"),
    (imports_go_down, "market/terms.py", "from market.units import Money", ""),
    (imports_go_down, "market/terms.py", "from . import units", "relative import"),
    (imports_go_down, "market/nowhere.py", "", "stands on no floor; add it to FLOORS"),
    (imports_go_down, "market/policy/fair.py", "import market.policy.load", "sideways to its twin"),
    (imports_go_down, "node/adapters/oci.py", "import node.adapters.disk", "sideways"),
    (imports_go_down, "node/adapters/oci/mounts.py", "import node.adapters.oci.cgroups", ""),
    (imports_go_down, "node/keeper.py", "from node.adapters.sqlite import Journal", "imports up"),
    (imports_go_down, "node/ports.py", "from tests import world", "is not shipped"),
    (adapters_hold_no_rules, "node/adapters/oci.py", "import node.keeper", "its port only"),
    (adapters_hold_no_rules, "node/adapters/oci.py", "import node.ports, market.terms", ""),
    (market_is_pure, "market/terms.py", "import time", "imports time"),
    (market_is_pure, "market/terms.py", "from os import path", "imports os"),
    (market_is_pure, "market/terms.py", "async def f(): ...", "async in market/"),
    (market_is_pure, "market/terms.py", "open('x')", "open() in market/"),
    (no_lazy_imports, "market/terms.py", "def f():\n    import math", "inside a function"),
    (no_lazy_imports, "node/keeper.py", "def f():\n    import market.terms", "inside a function"),
    (no_lazy_imports, "node/cli/main.py", "def f():\n    import market.terms", ""),
    (files_are_small, "market/terms.py", "\n" * 401, "401 lines"),
    (functions_are_small, "market/terms.py", "def f():\n" + "    0\n" * 70, "f has 71 lines"),
    (modules_say_what_they_are, "tests/x.py", "import math", "open with a docstring"),
    (modules_say_what_they_are, "tests/__init__.py", "", ""),
    (names_say_something, "node/helpers.py", "", "'helpers' says nothing"),
    (no_bare_except, "tests/x.py", "try: ...\nexcept: ...", "bare except"),
    (
        market_swallows_nothing,
        "market/x.py",
        "try: ...\nexcept (KeyError, Exception): pass",
        "raises none",
    ),
    (market_swallows_nothing, "market/x.py", "try: ...\nexcept KeyError: pass", ""),
    (time_and_chance_stay_at_the_edge, "node/keeper.py", "time.time()", "time.time outside"),
    (time_and_chance_stay_at_the_edge, "node/keeper.py", "from time import time", "outside"),
    (time_and_chance_stay_at_the_edge, "node/keeper.py", "os.environ['A']", "os.environ outside"),
    (time_and_chance_stay_at_the_edge, "node/keeper.py", "from os import environ", "os.environ"),
    (time_and_chance_stay_at_the_edge, "node/config.py", "os.environ['A']", ""),
    (time_and_chance_stay_at_the_edge, "node/keeper.py", "generator.random()", ""),
)


@pytest.mark.parametrize(("rule", "path", "source", "sentence"), BROKEN)
def test_a_rule_can_fail(
    rule: Callable[..., Iterator[str]], path: str, source: str, sentence: str
) -> None:
    file = parse(path, source)
    if rule is imports_go_down:  # the example's modules need not exist
        said = list(imports_go_down(file, lambda module: module in {"market.book", "market.units"}))
    else:
        said = list(rule(file))
    assert len(said) == bool(sentence), said
    assert sentence in "".join(said)


@pytest.mark.parametrize(
    ("rule", "line", "count"),
    [
        (todos_have_numbers, "# TO" + "DO: later", 1),
        (todos_have_numbers, "// TO" + "DO later", 1),
        (todos_have_numbers, "# TO" + "DO(#12): later", 0),
        (no_path_of_a_machine, "see /home" + "/ann/notes", 1),
        (no_path_of_a_machine, "see /root" + "/.cache", 1),
        (no_path_of_a_machine, "mounted at /work/inputs, like /etc/hosts", 0),
    ],
)
def test_a_text_rule_can_fail(
    rule: Callable[[str, str], Iterator[str]], line: str, count: int
) -> None:
    assert len(list(rule("README.md", line))) == count
