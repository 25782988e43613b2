"""Blobs and logs as plain files."""
