"""Ethereum: the `Chain` port over JSON-RPC. Knows transactions, gas, logs; no market rule."""
