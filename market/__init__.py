"""The rules of the market: pure and sans-io. No trio, sockets, clock, disk or randomness."""
