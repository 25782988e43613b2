"""Adapters: the world, one port each. They hold no rules of the market."""
