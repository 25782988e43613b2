"""The machine's clock and dice."""
