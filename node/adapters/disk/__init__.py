"""What the node keeps on this machine's disk."""
