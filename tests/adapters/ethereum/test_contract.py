"""The real chain keeps the contract of the port Chain."""

from tests.adapters.contract_chain import *  # noqa: F403
