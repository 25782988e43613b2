"""The real network keeps the contract of its ports."""

from tests.adapters.contract_network import *  # noqa: F403
