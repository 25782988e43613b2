"""The machine's dice. Knows nothing of what the bytes are for."""

from __future__ import annotations

import secrets


class SystemEntropy:
    """Randomness of the operating system."""

    def token(self, size: int) -> bytes:
        """So many random bytes."""
        return secrets.token_bytes(size)
