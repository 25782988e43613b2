"""Bench: measures this machine's units in processes of their own."""
