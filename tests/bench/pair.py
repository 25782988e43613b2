"""Pair: two nodes of a gang measure the line between them. Standard library only; runs anywhere.

Rank 0 meets rank 1 at MASTER_ADDR and MASTER_PORT, as torchrun's ranks meet. Rank 1 prints one line
of JSON: round trips in milliseconds, and bytes a second each way, one after the other.
"""

import json
import os
import socket
import statistics
import time

ROUNDS = 200
BYTES = 64 * 1024 * 1024
PART = bytes(1024 * 1024)
PATIENCE_S = 120


def meet() -> socket.socket:
    """A connection to the other node."""
    place = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    if os.environ["SOUK_NODE_RANK"] == "0":
        with socket.create_server(place) as desk:
            made = desk.accept()[0]
    else:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                made = socket.create_connection(place, 5)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
    made.settimeout(PATIENCE_S)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def give(made: socket.socket) -> None:
    """All the bytes, and wait until they are there."""
    for _ in range(BYTES // len(PART)):
        made.sendall(PART)
    made.recv(1)


def take(made: socket.socket) -> float:
    """All the bytes; how many came in a second."""
    left, began = BYTES, time.perf_counter()
    while left:
        left -= len(made.recv(min(left, len(PART))))
    rate = BYTES / (time.perf_counter() - began)
    made.sendall(b"x")
    return rate


def main() -> None:
    """Rank 0 gives back what it is sent, takes the bytes, and gives as many."""
    with meet() as made:
        if os.environ["SOUK_NODE_RANK"] == "0":
            for _ in range(ROUNDS):
                made.sendall(made.recv(1))
            take(made)
            give(made)
            return
        trips = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            made.sendall(b"x")
            made.recv(1)
            trips.append((time.perf_counter() - began) * 1000)
        began = time.perf_counter()
        give(made)
        sent = BYTES / (time.perf_counter() - began)
        found = {"sent": sent, "taken": take(made), "p50": statistics.median(trips),
                 "p99": statistics.quantiles(trips, n=100)[98]}  # fmt: skip
        print(json.dumps(found), flush=True)


main()
