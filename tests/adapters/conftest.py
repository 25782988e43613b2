"""Adapter tests: the contracts' assertions explain themselves as those of test modules do."""

import pytest

CONTRACTS = ("chain", "journal", "blobs", "logs", "signer", "sandbox")

pytest.register_assert_rewrite(*(f"tests.adapters.contract_{name}" for name in CONTRACTS))
