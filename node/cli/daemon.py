"""Daemon: `souk up`, the one command that is a node itself, with the API that the others ask.

A node takes a second to load and no other command should, so what it needs is imported inside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from market.errors import MarketError, RefusedError
from node.cli.options import DEFAULT, Common
from node.cli.output import say, write_json
from node.cli.readers import SettingsError
from node.cli.settings import Settings, to_config

if TYPE_CHECKING:
    import trio

    from node.adapters.oci.settings import OciSettings
    from node.control import Control
    from node.live import Place


def up(
    *,
    network: str | None = None,
    listen: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    bootstrap: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    web: str | None = None,
    drain: str | None = None,
    common: Common = DEFAULT,
) -> int:
    """Run a node in the foreground until SIGTERM or Ctrl-C; SIGHUP reads the file again.

    Parameters
    ----------
    network
        devnet, sepolia, base-sepolia or custom.
    listen
        Multiaddress to listen on. May be repeated.
    bootstrap
        Multiaddress of a peer to start from. May be repeated.
    web
        Serve the web view there too, like 127.0.0.1:8750.
    drain
        How long running jobs get their heartbeats after SIGTERM, like 90s.
    """
    import trio

    def read() -> Settings:
        return common.settings(
            network=network, listen=listen or None, bootstrap=bootstrap or None, web=web,
            drain=drain,
        )  # fmt: skip

    settings = read()
    log_to_stderr()
    trio.run(run_daemon, settings, common.as_json, read)
    return 0


async def run_daemon(
    settings: Settings, as_json: bool = False, reload: Callable[[], Settings] | None = None
) -> None:
    """Run a node and its API until SIGTERM, SIGINT or cancellation; SIGHUP calls `reload`.

    Says on stdout (JSON) or stderr when it can be asked. Raises MarketError.
    """
    import signal

    import trio

    from node.cli.supervisor import keep_watchdog, notify
    from node.cli.telemetry import export_spans
    from node.live import open_node
    from node.web.server import Serving, is_served

    config, place = to_config(settings, settings.decimals), to_place(settings)
    if is_served(settings.socket_path):
        raise RefusedError(f"a node already runs in {settings.data_dir}", hint="see: souk status")
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    with trio.open_signal_receiver(*numbers) as signals:
        async with open_node(config, place) as control, trio.open_nursery() as nursery:
            info = control.ports.chain.info
            if info.decimals != settings.decimals:
                raise SettingsError(
                    f"decimals: {info.symbol} has {info.decimals}, not {settings.decimals}",
                    hint=f"write decimals = {info.decimals}",
                )
            serving: Serving = await nursery.start(_serve, control, settings)
            say(f"up: {' '.join(control.ports.link.addresses()) or 'no address yet'}")
            nursery.start_soon(keep_watchdog)
            export_spans(control.ports.signer.peer.hex())
            notify("READY=1", f"STATUS=node {control.ports.signer.peer.hex()[:12]}")
            say(f"asked on {serving.socket_path}")
            if serving.url is not None:
                say(f"web view: {serving.url}")
            if as_json:
                write_json({"socket": str(serving.socket_path), "url": serving.url})
            stopping = False
            async for number in signals:
                if number == signal.SIGHUP:
                    settings = _reload(control, settings, reload)
                elif stopping or not control.selling.busy():
                    say(f"{signal.Signals(number).name}: stopping; jobs go on")
                    notify("STOPPING=1")
                    nursery.cancel_scope.cancel()
                else:
                    stopping = True
                    nursery.start_soon(_drain, control, settings.drain_s, nursery.cancel_scope)


async def _serve(control: Control, settings: Settings, *, task_status: Any) -> None:
    from node.web.server import Guests, serve

    await serve(
        control,
        socket_path=settings.socket_path,
        tcp=settings.web,
        guests=Guests(frozenset(settings.web_wallets), settings.web_hosts),
        images=settings.images_dir,
        task_status=task_status,
    )


async def _drain(control: Control, drain_s: int, scope: trio.CancelScope) -> None:
    """Quote nothing more; keep heartbeats going until the last job has ended, or time is up."""
    import trio

    from node.cli.supervisor import notify

    control.selling.close()
    busy = control.selling.busy()
    say(f"draining: {busy} agreements are live, at most {drain_s} s; again to stop now")
    notify("STOPPING=1", f"STATUS=draining, {busy} agreements live")
    with trio.move_on_after(drain_s):
        seen = -1
        while control.selling.busy():
            seen = await control.changed(seen)
    left = control.selling.busy()
    say(f"stopping; {left} jobs go on, start it again soon" if left else "stopping")
    scope.cancel()


def _reload(
    control: Control, settings: Settings, reload: Callable[[], Settings] | None
) -> Settings:
    """Read the file again and sell by it; what else changed waits for a restart."""
    from node.cli.selling import to_selling
    from node.cli.supervisor import notify

    if reload is None:
        return settings
    notify("RELOADING=1")
    try:
        new = reload()
        if new.provider is not None and new.provider != settings.provider:
            control.selling.reconfigure(to_selling(new.provider, settings.decimals))
    except MarketError as problem:
        say(f"not reloaded: {problem}" + (f" ({problem.hint})" if problem.hint else ""))
        notify("READY=1")
        return settings
    restart = sorted(
        field.name
        for field in fields(Settings)
        if field.name not in ("provider", "drain_s")
        and getattr(new, field.name) != getattr(settings, field.name)
    )
    say("reloaded" + (f"; these wait for a restart: {', '.join(restart)}" if restart else ""))
    notify("READY=1")
    return replace(settings, provider=new.provider, drain_s=new.drain_s)


def log_to_stderr(level: str = "info") -> None:
    """Facts for people on a terminal, JSON lines for whatever else reads them; never on stdout."""
    import sys

    import structlog

    renderer: structlog.typing.Processor
    if sys.stderr.isatty():
        renderer = structlog.dev.ConsoleRenderer()
    else:
        renderer = structlog.processors.JSONRenderer(default=repr)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def to_sandbox(settings: Settings) -> OciSettings:
    """How jobs are run on this machine. Raises SandboxError."""
    from node.adapters.oci.settings import OciSettings

    box = settings.sandbox
    made = OciSettings(
        state_dir=box.state or settings.data_dir / "sandbox",
        instance=box.instance,
        run_dir=box.run_dir,
        driver=box.driver,
        runtime=box.runtime or ("runc" if box.driver == "oci" else ""),
        socket=box.socket,
        uid_base=box.uid_base,
    )
    sold = settings.provider
    if sold is None:
        return made
    return replace(
        made, cpus=sold.cpu_cores, memory_mib=sold.cpu_ram_mib, disk_mib=sold.disk_space_mib
    )


def to_place(settings: Settings) -> Place:
    """Where the node lives, for `node.live`. Call `to_config` first: it says what is missing."""
    from node.adapters.devices.declared import Declared
    from node.adapters.registry.settings import Host, RegistrySettings
    from node.cli.chain import chain_config
    from node.live import Place

    sold = settings.provider
    declared = None
    if sold is not None and sold.units:
        declared = tuple(Declared(g.count, g.name, g.ram_mib) for g in sold.units)
    return Place(
        data_dir=settings.data_dir,
        chain=chain_config(settings),
        listen=settings.listen,
        bootstrap=settings.bootstrap,
        announce=settings.announce,
        reachable=settings.reachable,
        relay=settings.relay,
        relay_kbps=settings.relay_rate,
        password_file=settings.password_file,
        declared=declared,
        sandbox=None if sold is None else to_sandbox(settings),
        registries=RegistrySettings(
            {
                host: Host(each.username, each.password_file, each.private, each.insecure)
                for host, each in settings.registries
            }
        ),
    )
