"""The machine's rentable units, found by a driver or declared by their owner."""
