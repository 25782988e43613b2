"""Schema: the job file as JSON Schema, for editors; and the words that a shell completes."""

from __future__ import annotations

import json
from typing import Final

from market.errors import SpecError
from market.jobschema import job_schema
from node.cli.options import DEFAULT, Common
from node.cli.output import write_json

SHELLS: Final = ("bash", "zsh", "fish")


def schema(*, common: Common = DEFAULT) -> int:
    """Print the job file's JSON Schema. An editor reads it after a first line like
    `# yaml-language-server: $schema=job.schema.json`.
    """
    if common.as_json:
        write_json({"job": job_schema()})
    else:
        print(json.dumps(job_schema(), indent=2, ensure_ascii=False))
    return 0


def completion(shell: str, *, common: Common = DEFAULT) -> int:
    """Print what completes souk's commands and flags: `source <(souk completion bash)`.

    Parameters
    ----------
    shell
        bash, zsh or fish.
    """
    if shell not in SHELLS:
        raise SpecError(f"{shell}: no such shell", hint=f"one of {', '.join(SHELLS)}")
    from node.cli.main import make_app

    script = make_app().generate_completion(shell=shell)  # type: ignore[arg-type]  # checked above
    if common.as_json:
        write_json({"shell": shell, "script": script})
    else:
        print(script, end="")
    return 0
