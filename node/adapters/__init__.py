"""Adapters: one port each, filled by a real library or kernel. They hold no rules."""
