"""Control: what a person or a program may ask of a running node. No transport, no rendering.

The HTTP API and the CLI are thin skins over this room. Every answer is plain data (dicts of text,
integers and lists), money as decimal text of whole tokens, hashes in hex, times in Unix seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from market.agreement import Agreement, Role
from market.errors import NotFoundError, SpecError
from market.job import CancelAsked, Job
from market.spec import Spec, parse
from market.terms import Artifact, Offer
from market.units import format_money
from node.artifacts import Artifacts
from node.bulletin import Bulletin
from node.config import Config
from node.keeper import JobHappened, Keeper, Submitted
from node.ports import Ports
from node.requester import Requester

LOG_PART_BYTES = 64 * 1024


class Control:
    """The node's front desk."""

    def __init__(
        self,
        config: Config,
        ports: Ports,
        keeper: Keeper,
        bulletin: Bulletin,
        requester: Requester,
        artifacts: Artifacts,
    ) -> None:
        """Holds the rooms it asks; it has no state of its own."""
        self._config = config
        self._ports = ports
        self._keeper = keeper
        self._bulletin = bulletin
        self._requester = requester
        self._artifacts = artifacts

    @property
    def ports(self) -> Ports:
        """For the API: blobs go in and out as streams."""
        return self._ports

    async def changed(self, seen: int = -1) -> int:
        """Wait for news of any job or agreement; see `Keeper.changed`."""
        return await self._keeper.changed(seen)

    def _money(self, amount: int) -> str:
        return format_money(amount, self._ports.chain.info.decimals)

    def spec(self, raw: object) -> Spec:
        """Check a job file's mapping. Raises SpecError."""
        return parse(raw, decimals=self._ports.chain.info.decimals)

    async def submit(
        self,
        raw: object,
        image: Artifact,
        inputs: tuple[Artifact, ...],
        secrets: Mapping[str, str],
    ) -> str:
        """Take a job whose image and inputs are in the blob store already; returns its id.

        Raises SpecError for a wrong job file, a missing secret or a missing blob.
        """
        spec = self.spec(raw)
        missing = [name for name in spec.secrets if name not in secrets]
        if missing:
            raise SpecError(f"secrets: {missing[0]} has no value",
                            hint=f"give it with --secret {missing[0]}")  # fmt: skip
        for artifact in (image, *inputs):
            if await self._ports.blobs.size(artifact.hash) != artifact.size_bytes:
                raise SpecError(f"{artifact.path}: its bytes are not here", hint="upload it first")
        job = self._requester.draft(spec, image, inputs, secrets)
        await self._keeper.heed(Submitted(job))
        return job.id.hex()

    def explain(self, raw: object) -> list[str]:
        """What the market has for a job file, and what would let more offers fit."""
        return list(self._requester.explain(self.spec(raw)))

    def job(self, name: str) -> Job:
        """The job whose id (or name, if it is the only such one) begins so. NotFoundError."""
        found = [job for job in self._keeper.jobs.values() if job.id.hex().startswith(name)]
        if not found:
            found = [job for job in self._keeper.jobs.values() if job.manifest.name == name]
            found = sorted(found, key=lambda job: job.created_at_ms)[-1:]
        if len(found) != 1 or not name:
            raise NotFoundError(f"no job is called {name!r}", hint="list them with: souk ps -a")
        return found[0]

    async def cancel(self, name: str) -> str:
        """End a job; returns its id. Money not earned by then is refunded."""
        job = self.job(name)
        await self._keeper.heed(JobHappened(job.id, CancelAsked()))
        return job.id.hex()

    def jobs(self) -> list[dict[str, Any]]:
        """Every job, newest first."""
        ordered = sorted(self._keeper.jobs.values(), key=lambda job: -job.created_at_ms)
        return [self._job_row(job) for job in ordered]

    async def show(self, name: str) -> dict[str, Any]:
        """One job with its history, agreements, money and results."""
        job = self.job(name)
        agreements = [
            self._agreement_row(self._keeper.agreements[key])
            for key in job.attempts
            if key in self._keeper.agreements
        ]
        story = await self._ports.journal.story(job.id, 200)
        return {
            **self._job_row(job),
            "command": job.manifest.command,
            "history": [
                {"at": change.at_ms / 1000, "state": change.state.value, "reason": change.reason}
                for change in job.history
            ],
            "agreements": agreements,
            "checkpoint": _artifact(job.checkpoint) if job.checkpoint else None,
            "results": [_artifact(result) for result in job.results],
            "story": [{"at": line.at, "kind": line.kind, "text": line.text} for line in story],
        }

    def results(self, name: str) -> tuple[Artifact, ...]:
        """What a finished job left. NotFoundError."""
        return self.job(name).results

    async def log(self, name: str, offset: int) -> tuple[bytes, int, bool]:
        """Output from `offset`: the bytes, where to go on, and whether no more will come."""
        job = self.job(name)
        data = await self._ports.logs.read(job.id, offset, LOG_PART_BYTES)
        return data, offset + len(data), job.over and not data

    def offers(self) -> list[dict[str, Any]]:
        """The live offers this node has heard of, cheapest first."""
        offers = sorted(
            self._bulletin.book.offers(), key=lambda o: (o.price_per_hour, o.peer, o.offer_id)
        )
        return [self._offer_row(offer) for offer in offers]

    def peers(self) -> list[dict[str, Any]]:
        """Who is connected."""
        return [
            {
                "peer": info.peer.hex(),
                "address": info.address,
                "outbound": info.outbound,
                "rtt_ms": None if info.rtt_us is None else info.rtt_us / 1000,
                "since": info.connected_at,
            }
            for info in self._ports.link.peers()
        ]

    async def wallet(self) -> dict[str, Any]:
        """What the escrow holds for this node's wallet. Raises ChainError."""
        info = self._ports.chain.info
        account = await self._ports.chain.account(self._config.wallet, self._ports.signer.operator)
        return {
            "wallet": _address(self._config.wallet),
            "operator": _address(self._ports.signer.operator),
            "chain_id": info.domain.chain_id,
            "escrow": _address(info.domain.contract),
            "token": info.symbol,
            "in_wallet": self._money(account.tokens),
            "deposited": self._money(account.free),
            "stake": self._money(account.stake),
            "locked": self._money(account.locked),
            "thawing": self._money(account.thawing),
            "allowance": self._money(account.operator_allowance),
            "allowance_expires": account.operator_expires_at_s,
            "gas_wei": str(account.gas),
        }

    def status(self) -> dict[str, Any]:
        """One screen about this node."""
        agreements = self._keeper.agreements.values()
        return {
            "peer": self._ports.signer.peer.hex(),
            "network": self._config.network,
            "addresses": list(self._ports.link.addresses()),
            "peers": len(self._ports.link.peers()),
            "offers_known": len(self._bulletin.book),
            "selling": self._config.selling is not None,
            "units": [
                {
                    "index": unit.index,
                    "name": unit.name,
                    "ram_mib": unit.ram_mib,
                    "declared": unit.declared,
                    "busy": bool(self._keeper.taken_units() >> unit.index & 1),
                }
                for unit in self._ports.devices.units()
            ],
            "jobs": sum(not job.over for job in self._keeper.jobs.values()),
            "agreements": sum(not agreement.ended for agreement in agreements),
            "block": self._keeper.block,
            "waiting_for": self._bulletin.waiting_for(),
            "counters": self._ports.link.statistics(),
            "now": self._ports.clock.now(),
        }

    def agreements(self) -> list[dict[str, Any]]:
        """Every agreement of this node, newest first."""
        ordered = sorted(self._keeper.agreements.values(), key=lambda a: -a.created_at_ms)
        return [self._agreement_row(agreement) for agreement in ordered]

    def _job_row(self, job: Job) -> dict[str, Any]:
        attempts = [self._keeper.agreements.get(key) for key in job.attempts]
        mine = [attempt for attempt in attempts if attempt is not None]
        current = self._keeper.agreements.get(job.agreement) or (mine[-1] if mine else None)
        return {
            "id": job.id.hex(),
            "name": job.manifest.name,
            "state": job.state.value,
            "reason": job.reason,
            "created": job.created_at_ms / 1000,
            "finished": job.finished_at_ms / 1000 or None,
            "over": job.over,
            "exit_code": job.exit_code if job.over else None,
            "provider": current.peer.hex() if current else None,
            "attempts": len(job.attempts),
            "metered_s": sum(a.metered_s for a in mine),
            "promised": self._money(sum(a.promised for a in mine)),
            "paid": self._money(sum(a.paid for a in mine)),
            "refunded": self._money(sum(a.refunded for a in mine)),
            "compensated": self._money(sum(a.to_victim for a in mine)),
            "settled": all(a.ended for a in mine),
            "log_bytes": current.log_have if current else 0,
        }

    def _agreement_row(self, a: Agreement) -> dict[str, Any]:
        money = a.terms.money
        return {
            "id": a.id.hex(),
            "role": a.role.value,
            "peer": a.peer.hex(),
            "job": a.job_id.hex(),
            "phase": a.phase.value,
            "ending": a.ending.value,
            "reason": a.reason,
            "work": a.report.work.value,
            "units": a.terms.unit_count,
            "price_per_hour": self._money(money.price_per_hour),
            "deposit": self._money(money.deposit),
            "collateral": self._money(money.collateral),
            "metered_s": a.metered_s,
            "beats": a.beat.heartbeat.sequence if a.beat else 0,
            "last_heard": a.heard_at_ms / 1000 or None,
            "promised": self._money(a.promised),
            "paid": self._money(a.paid),
            "refunded": self._money(a.refunded),
            "slashed": self._money(a.slashed),
            "to_victim": self._money(a.to_victim),
            "burned": self._money(a.slashed - a.to_victim),
            "opened": a.opened_at_s or None,
            "transactions": {
                name: "0x" + tx.hex()
                for name, tx in (
                    ("open", a.open_tx),
                    ("challenge", a.challenge_tx),
                    ("slash", a.slash_tx),
                    ("close", a.close_tx),
                )
                if tx
            },
            "is_provider": a.role is Role.PROVIDER,
        }

    def _offer_row(self, offer: Offer) -> dict[str, Any]:
        return {
            "peer": offer.peer.hex(),
            "offer": offer.offer_id.hex(),
            "provider": _address(offer.provider),
            "gpu_name": offer.gpu_name,
            "num_gpus": offer.num_gpus,
            "num_units": offer.num_units,
            "gpu_ram": offer.gpu_ram_mib / 1024,
            "cpu_cores": offer.cpu_cores,
            "cpu_ram": offer.cpu_ram_mib / 1024,
            "disk_space": offer.disk_space_mib / 1024,
            "inet_up": offer.inet_up_kbps / 1000,
            "inet_down": offer.inet_down_kbps / 1000,
            "cuda_vers": offer.cuda_vers / 100,
            "driver_version": offer.driver_version,
            "dlperf": offer.dlperf_milli / 1000,
            "reliability": offer.reliability_ppm / 1_000_000,
            "geolocation": offer.geolocation,
            "dph": self._money(offer.price_per_hour),
            "duration": offer.max_duration_s,
            "verified": offer.verified,
            "declared": offer.declared,
            "expires": offer.expires_at_s,
        }


def _artifact(artifact: Artifact) -> dict[str, Any]:
    return {
        "path": artifact.path,
        "sha256": artifact.hash.hex(),
        "size_bytes": artifact.size_bytes,
    }


def _address(raw: bytes) -> str:
    return "0x" + raw.hex()
