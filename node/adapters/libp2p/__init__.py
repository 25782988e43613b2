"""The network: the ports Gossip and Link over py-libp2p. Knows no offer, no job and no money."""
