"""Outside: the network beyond this machine, as far as jobs are let."""
