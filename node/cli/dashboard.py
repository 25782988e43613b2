"""Dashboard: `souk dashboard` says where the web view is, and opens it where there is a screen."""

from __future__ import annotations

import os
from typing import Annotated

from cyclopts import Parameter

from market.errors import RefusedError
from node.cli.options import DEFAULT, Common
from node.cli.output import say, write_json, write_lines


def dashboard(
    *,
    open_: Annotated[bool, Parameter(name="--open")] = True,
    common: Common = DEFAULT,
) -> int:
    """Print the address of the node's web view, and open it in the browser of this desktop.

    The address holds the key to the node: whoever opens it may spend what the node may spend.

    Parameters
    ----------
    open_
        Open it, if there is a desktop.
    """
    url = common.node().get("/api/status").get("url")
    if not url:
        raise RefusedError(
            "the node serves no web view",
            hint='start it with: souk up --web 127.0.0.1:8750, or write web = "127.0.0.1:8750"',
        )
    if common.as_json:
        write_json({"url": url})
    else:
        write_lines([url])
    if open_ and not common.as_json and _has_a_screen():
        import webbrowser

        if webbrowser.open(url):
            say("opened in the browser")
    return 0


def _has_a_screen() -> bool:
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
