"""The web room: the HTTP API over `node/control.py` and the server that carries it."""
