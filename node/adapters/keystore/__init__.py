"""The node's keys as files."""
