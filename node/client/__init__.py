"""The client: a running node asked over its unix socket, for the commands and for notebooks."""
