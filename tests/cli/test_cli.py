"""The real `souk` in its own process against the real API: what it prints and how it exits."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cli.terminal import Terminal

STUB = Path(__file__).with_name("stub_node.py")
JOB = """\
name: {name}
image: base
file_mounts: {{/data/in.txt: in.txt}}
run: python train.py
max_hourly_cost: 0.60
max_duration: 2h
resources:
  accelerators: {{RTX4090: 2}}
"""


def _hear_interrupts() -> None:
    """A shell's background job is started deaf to Ctrl-C, and its children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        found = json.loads(self.out)
        assert found["schema"] == 1
        return found


@dataclass(frozen=True)
class Machine:
    """A home with a data directory, an image and job files."""

    home: Path

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "XDG_STATE_HOME": str(self.home / "state"),
            "XDG_CONFIG_HOME": str(self.home / "config"),
            "HF_TOKEN": "t0ken",
        }

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "node.cli.main", *arguments],
            cwd=self.home,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=_hear_interrupts,
        )

    def souk(self, *arguments: str) -> Said:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=60)
        assert "Traceback" not in err, err
        return Said(process.returncode, out, err)

    def job(self, name: str, extra: str = "") -> str:
        path = self.home / f"{name}.yaml"
        path.write_text(JOB.format(name=name) + extra)
        return path.name


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    folder = tmp_path_factory.mktemp("home")
    (folder / "state" / "gridsouk" / "images").mkdir(parents=True)
    (folder / "state" / "gridsouk" / "images" / "base.tar").write_bytes(b"image")
    (folder / "in.txt").write_text("input")
    return Machine(folder)


@pytest.fixture(scope="module")
def machine(home: Machine) -> Iterator[Machine]:
    socket = home.home / "state" / "gridsouk" / "node.sock"
    command = [sys.executable, str(STUB), str(socket)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as node:
        assert node.stdout is not None
        assert node.stdout.readline().startswith("http://127.0.0.1:")
        assert socket.stat().st_mode & 0o777 == 0o600
        yield home
        node.terminate()


def test_without_a_node_it_says_how_to_start_one(tmp_path: Path) -> None:
    alone = Machine(tmp_path)
    said = alone.souk("ps")
    assert said == Said(3, "", "souk: no node runs here (start it with: souk up)\n")
    assert alone.souk("status", "--json").json["error"] == {
        "code": "node-down",
        "message": "no node runs here",
        "hint": "start it with: souk up",
    }
    assert alone.souk("validate", alone.job("a")).code == 0  # without a node, by the rules alone


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["offers"], "offers"),
        (["ps", "-a"], "jobs"),
        (["show", "done"], "job"),
        (["logs", "done"], "log"),
        (["wait", "done"], "job"),
        (["cancel", "live"], "id"),
        (["extend", "live", "30m"], "max_duration_s"),
        (["status"], "status"),
        (["peers"], "peers"),
        (["explain", "fine.yaml"], "lines"),
        (["validate", "fine.yaml"], "plan"),
        (["run", "fine.yaml", "-y", "--env", "A=1"], "job"),
        (["run", "fine.yaml", "-y", "-d"], "job"),
    ],
)
def test_every_answer_is_one_json_object(machine: Machine, arguments: list[str], key: str) -> None:
    machine.job("fine")
    said = machine.souk(*arguments, "--json")
    assert said.code == 0, said
    assert key in said.json


def test_offers_are_searched_and_sorted(machine: Machine) -> None:
    said = machine.souk("offers", "num_gpus>=4 gpu_name in [H100,A100]", "-o", "dph-", "--json")
    assert [row["gpu_name"] for row in said.json["offers"]] == ["H100", "A100"]
    plain = machine.souk("offers", "gpu_name=rtx_4090")
    assert plain.out.splitlines()[0].startswith("OFFER\tGPU_NAME\t")
    assert len(plain.out.splitlines()) == 2
    assert "\x1b" not in plain.out  # a stranger's text does not steer the terminal


def test_ps_prints_ids_for_scripts(machine: Machine) -> None:
    ids = machine.souk("ps", "-q").out.splitlines()
    assert "cc" * 16 in ids
    assert "aa" * 16 not in ids
    assert "aa" * 16 in machine.souk("ps", "-a", "-q").out.splitlines()


@pytest.mark.parametrize(("name", "code"), [("fine", 0), ("bad", 100), ("gone", 103)])
def test_run_follows_to_the_end(machine: Machine, name: str, code: int) -> None:
    said = machine.souk("run", machine.job(name), "-y", "--env", f"RUN={name}")
    assert said.code == code
    assert said.out == "step 1\nstep 2\n"
    assert "at most 0.6 TEST/h for 2h 00m" in said.err
    assert "held now: 0.5 TEST, of which about 0.2 comes back" in said.err
    assert "-> RTX 4090 x1       0.4       0.45 = 0.3 + 0.1 + 0.05" in said.err
    assert "RUNNING" in said.err


def test_dashboard_prints_the_address_with_its_token(machine: Machine) -> None:
    said = machine.souk("dashboard", "--no-open")
    assert said.code == 0
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=[0-9a-f]{32}\n", said.out)
    assert machine.souk("dashboard", "--json").json["url"] == said.out.strip()


def test_interrupting_run_detaches(machine: Machine) -> None:
    process = machine.start("run", machine.job("live"), "-y")
    assert process.stdout is not None
    assert process.stdout.readline() == "step 1\n"  # it follows by now
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "detached; the job goes on. See it with: souk logs -f " in err


def test_wait_ends_with_the_jobs_code(machine: Machine) -> None:
    codes = [
        machine.souk("wait", *arguments).code
        for arguments in (("bad",), ("gone",), ("live", "--timeout", "1s"), ("nobody",))
    ]
    assert codes == [100, 103, 124, 102]


def test_get_writes_checked_results(machine: Machine, tmp_path: Path) -> None:
    said = machine.souk("get", "done", str(tmp_path / "results"))
    file = tmp_path / "results" / "out" / "model.bin"
    assert (said.code, said.out) == (0, f"{file}\n")
    assert hashlib.sha256(file.read_bytes()).hexdigest() in machine.souk("show", "done").out


def test_get_writes_nowhere_else(machine: Machine, tmp_path: Path) -> None:
    said = machine.souk("get", "evil", str(tmp_path / "results"))
    assert said.code == 1
    assert "is no name for a file" in said.err
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "out").symlink_to(tmp_path / "elsewhere")
    said = machine.souk("get", "done", str(tmp_path / "linked"))
    assert said.code == 1
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["pss"], 2, 'Unknown command "pss". Did you mean "ps"?'),
        (["ps", "--bogus"], 2, "--bogus"),
        (["validate"], 2, "validate: JOB is missing (see souk validate --help)"),
        (["wallet", "authorise"], 2, "wallet authorise: --allowance is missing"),
        (["wallet", "bogus"], 2, "wallet: what is bogus? (see souk wallet --help)"),
        (["ps", "-o", "xml"], 2, "-o xml: no such format (one of table"),
        (["show", "nobody"], 102, "no job is called 'nobody' (list them with: souk ps -a)"),
        (["offers", "gpu_nme=H100"], 2, "did you mean gpu_name?"),
        (["offers", "num_gpus>=many"], 2, "num_gpus: 'many' is not a number"),
        (["wallet"], 1, "the chain does not answer"),
        (["run", "missing.yaml"], 2, "missing.yaml: No such file or directory"),
        (["run", "fine.yaml"], 2, "there is no terminal to ask on (say yes with -y)"),
        (["run", "typo.yaml", "-y"], 2, "typo.yaml:9: max_duraton: no such key"),
        (["run", "twice.yaml", "-y"], 2, "twice.yaml:9: name is there twice"),
        (["run", "alias.yaml", "-y"], 2, "alias.yaml:9: anchors and aliases are not read"),
        (["run", "broken.yaml", "-y"], 2, "broken.yaml:2"),
        (["run", "picture.yaml", "-y"], 2, "souk image build picture"),
        (["run", "fine.yaml", "-y", "--secret", "A=b"], 2, "is not a secret"),
        (["run", "fine.yaml", "-y", "--secret", "NOWHERE"], 2, "no such environment variable"),
        (["run", "secret.yaml", "-y"], 2, "secrets: HF_TOKEN has no value"),
        (["wait", "live", "--timeout", "soon"], 2, "'soon' is not a duration"),
        (["ps", "--config", "nowhere.toml"], 2, "nowhere.toml: there is no such file"),
        (["get", "live"], 102, "has no results: it is not over"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    machine: Machine, arguments: list[str], code: int, sentence: str
) -> None:
    machine.job("fine")
    machine.job("typo", "max_duraton: 3h\n")
    machine.job("twice", "name: again\n")
    machine.job("alias", "envs: &a {X: *a}\n")
    machine.job("secret", "secrets: [HF_TOKEN]\n")
    machine.job("picture")
    picture = machine.home / "picture.yaml"
    picture.write_text(picture.read_text().replace("image: base", "image: picture"))
    (machine.home / "broken.yaml").write_text("name: [a\n")
    said = machine.souk(*arguments)
    last = said.err.splitlines()[-1]
    assert (said.code, sentence in last) == (code, True), said
    assert said.out == ""
    assert sum(line.startswith("souk: ") for line in said.err.splitlines()) == 1
    error = machine.souk(*arguments, "--json").json["error"]
    assert set(error) == {"code", "message", "hint"}


def test_secrets_come_from_the_environment_or_a_file(machine: Machine) -> None:
    job = machine.job("secret", "secrets: [HF_TOKEN]\n")
    (machine.home / "token").write_text("t0ken\n")
    first = machine.souk("run", job, "-y", "-q", "--secret", "HF_TOKEN")
    second = machine.souk("run", job, "-y", "-q", "--secret", f"HF_TOKEN@{machine.home}/token")
    assert first.code == 0
    assert first.out == second.out  # the stub's id is a hash of the values


def test_it_starts_fast_because_it_imports_little(machine: Machine) -> None:
    code = (
        "import sys; from node.cli.main import main\n"
        "try: main(['ps'])\n"
        "except SystemExit: pass\n"
        "heavy = {'trio', 'fastapi', 'httpx', 'web3', 'numpy', 'libp2p', 'yaml', 'rich.table'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code],
        env=machine.environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stderr.splitlines()[-1] == "[]"


def test_a_longer_job_says_what_it_may_cost(machine: Machine) -> None:
    said = machine.souk("extend", "live", "30m")
    assert (said.code, said.out) == (0, "cc" * 16 + "\n")
    assert said.err == "it may take 40m 00s in all now; that costs at most 0.2 more\n"
    assert machine.souk("extend", "live", "soon").code == 2
    assert machine.souk("logs", "done", "--rank", "3", "-f").code == 2


def test_one_key_one_job(machine: Machine) -> None:
    job = machine.job("fine")
    first, again = (
        machine.souk("run", job, "-y", "-q", "--key", "nightly", "--env", f"N={n}") for n in (1, 2)
    )
    assert (first.code, first.out) == (0, again.out)
    assert machine.souk("run", job, "-y", "-q", "--key", "k" * 65).code != 0


def test_a_view_is_drawn_again_until_it_is_left(machine: Machine) -> None:
    process = machine.start("offers", "-w")
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(4)]
    assert lines[0].startswith("OFFER\t")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")  # not drawn again: nothing changed
    assert "Traceback" not in err
    assert machine.souk("offers", "dhp<1", "-w").code == 2


def test_formats_are_said_in_one_way(machine: Machine) -> None:
    assert machine.souk("offers", "-o", "json").json["offers"]
    assert machine.souk("-o", "json", "offers").json == machine.souk("--json", "offers").json
    assert machine.souk("offers", "-o", "yaml").out.startswith("schema: 1\noffers:\n- offer: ")
    wide, plain = machine.souk("offers", "-o", "wide"), machine.souk("offers", "-o", "dph-")
    assert len(wide.out.splitlines()[0].split("\t")) > len(plain.out.splitlines()[0].split("\t"))
    assert machine.souk("ps", "-a", "-o", "name").out == machine.souk("ps", "-a", "-q").out
    said = machine.souk("ps", "--output", "xml")
    assert (said.code, "no such format" in said.err) == (2, True)


def test_a_job_file_may_come_by_a_pipe(tmp_path: Path) -> None:
    alone = Machine(tmp_path)
    for words in (["validate", "-"], ["validate", "-", "--json"]):
        said = subprocess.run(
            [sys.executable, "-m", "node.cli.main", *words], cwd=tmp_path, env=alone.environment,
            input=JOB.format(name="piped"), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (said.returncode, "-: in order" in said.stdout or "--json" in words) == (0, True)


def test_a_narrow_terminal_shows_every_column(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    screen = Terminal(
        [sys.executable, "-m", "node.cli.main", "doctor"], machine.home,
        {**machine.environment, "TERM": "dumb", "NO_COLOR": "1"},
    )  # fmt: skip
    screen.resize(60, 40)
    try:
        screen.until("CHECK")
        assert screen.until("\n").split() == ["RESULT", "FOUND", "WHAT", "TO", "DO"]
        screen.until("configuration   WRONG   ")
        assert screen.end() == 1
    finally:
        screen.kill()


def test_events_are_told_once_each(machine: Machine) -> None:
    said = machine.souk("run", machine.job("fine"), "-y", "-d", "--env", "E=events")
    told = machine.souk("events", said.out.strip(), "-f").out.splitlines()
    assert [line.split("  ")[3] for line in told] == ["PENDING", "RUNNING", "SUCCEEDED"]


def test_several_jobs_are_waited_for(machine: Machine) -> None:
    assert machine.souk("wait", "done", "bad").code == 100
    assert machine.souk("wait").code == 2
    assert len(machine.souk("cancel", "done", "live", "--json").json["ids"]) == 2


def test_who_cannot_pay_is_told_before_anything_waits(machine: Machine) -> None:
    said = machine.souk("run", machine.job("poor"), "-y")
    assert said.code == 6
    assert "0.1 TEST are missing: the escrow holds 0.4 for you" in said.err
    assert "(souk deposit 0.1)" in said.err
