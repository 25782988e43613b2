"""Ethereum: the `Chain` port over JSON-RPC. Knows transactions, gas and logs, and no market rule."""
