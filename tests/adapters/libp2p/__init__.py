"""Tests of the network adapter: contract, defects, attacks, peers."""
