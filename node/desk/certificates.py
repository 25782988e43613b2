"""Certificates' desk: measure our own units, challenge somebody else's, say what is known."""

from __future__ import annotations

from typing import Any

from market.certificate import Certificate, allowed_s, dlperf_milli, false_alarm, size_of
from market.errors import NotFoundError
from node.bulletin import Bulletin
from node.certify import Certifier
from node.challenger import Challenger


class CertificateDesk:
    """Asks the certifier about our own units and the challenger about those of others."""

    def __init__(self, certifier: Certifier, challenger: Challenger, bulletin: Bulletin) -> None:
        """Shares the node's rooms."""
        self._certifier = certifier
        self._challenger = challenger
        self._bulletin = bulletin
        self._doing = ""

    async def certify(self) -> list[dict[str, Any]]:
        """Measure every unit of this node; takes all of each for seconds."""
        try:
            made = await self._certifier.certify(self._tell)
        finally:
            self._doing = ""
        self._bulletin.stir()
        return [self._row(one.certificate) for one in made]

    def all(self) -> dict[str, Any]:
        """Our own certificates, and what this node found out about those that are offered."""
        own = [self._row(one.certificate) for _, one in sorted(self._certifier.certified.items())]
        offered = {
            (certified.certificate.peer, certified.certificate.uuid): certified.certificate
            for offer in self._bulletin.book.offers()
            if (certified := offer.certificate) is not None
        }
        others = [
            self._row(certificate)
            for (peer, _), certificate in sorted(offered.items())
            if peer != self._bulletin.me
        ]
        return {"own": own, "offered": others, "doing": self._doing}

    async def challenge(self, named: str) -> list[dict[str, Any]]:
        """Challenge the offered units of the peer or offer whose name begins so. NotFoundError."""
        found = {
            (certified.certificate.peer, certified.certificate.uuid): certified.certificate
            for offer in self._bulletin.book.offers()
            if offer.peer != self._bulletin.me and (certified := offer.certificate) is not None
            and (offer.peer.hex().startswith(named) or offer.offer_id.hex().startswith(named))
        }  # fmt: skip
        if not found or not named:
            raise NotFoundError(f"no certified offer of {named!r} is live",
                                hint="see: souk offers -o wide")  # fmt: skip
        rows = []
        for certificate in found.values():
            tried, took_s, may_s = await self._challenger.challenge(certificate)
            rows.append({**self._row(certificate), "right": tried.right, "in_time": tried.in_time,
                         "seconds": took_s, "allowed_s": may_s})  # fmt: skip
        return rows

    def _tell(self, text: str) -> None:
        self._doing = text

    def _row(self, certificate: Certificate) -> dict[str, Any]:
        size = size_of(certificate)
        return {
            "peer": certificate.peer.hex(),
            "unit": certificate.unit,
            "uuid": certificate.uuid,
            "gpu_name": certificate.name,
            "dlperf": dlperf_milli(certificate) / 1000,
            "fp32_gflops": certificate.fp32_gflops,
            "fp16_gflops": certificate.fp16_gflops,
            "int8_gops": certificate.int8_gops,
            "memory_mbps": certificate.memory_mbps,
            "pcie_mbps": certificate.pcie_mbps,
            "disk_mbps": certificate.disk_mbps,
            "inet_up": certificate.inet_up_kbps / 1000,
            "inet_down": certificate.inet_down_kbps / 1000,
            "ram_mib": certificate.ram_mib,
            "library": certificate.library,
            "measured": certificate.measured_at_s,
            "expires": certificate.expires_at_s,
            "standing": self._challenger.standing_of(certificate).value,
            "challenge_size": size,
            "challenge_allowed_s": allowed_s(certificate, size, 0.0),
            "false_alarm": false_alarm(0.01),
        }
