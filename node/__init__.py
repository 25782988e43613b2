"""One running node: the only home of trio."""
