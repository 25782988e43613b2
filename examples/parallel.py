"""Train on handwritten digits with several machines: each has a share of every batch.

After each step the nodes sum their gradients around a ring, over TCP at ports that the kernel
picks, as gloo and NCCL do: nothing of the program knows that there is a market between them. Rank 0
keeps the checkpoint; when the gang is matched again, every node gets that one. Needs numpy only; a
program that uses torch.distributed finds MASTER_ADDR and all else that torchrun reads.
"""

import json
import os
import socket
import time
from pathlib import Path

import numpy as np

RANK, NODES = int(os.environ["SOUK_NODE_RANK"]), int(os.environ["SOUK_NUM_NODES"])
MASTER = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
IPS = os.environ["SOUK_NODE_IPS"].split()
EPOCHS = int(os.environ.get("EPOCHS", "40"))
HIDDEN, BATCH, RATE = 128, 64, 0.1  # BATCH is each node's share
STATE = Path(os.environ.get("GRIDSOUK_CHECKPOINT", "/ckpt")) / "state.npz"
PATIENCE_S = 120  # the other nodes may start later


def connect(place):
    """As soon as somebody listens there."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            made = socket.create_connection(place, timeout=5)
            made.settimeout(PATIENCE_S)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return made
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def meet():
    """The ring: a connection to the next rank, and one from the rank before."""
    here = socket.create_server((IPS[RANK], 0))
    mine = here.getsockname()[1]
    if RANK == 0:
        ports, callers = {0: mine}, []
        with socket.create_server(("", MASTER[1])) as desk:
            for _ in range(NODES - 1):
                caller, _ = desk.accept()
                rank, port = json.loads(caller.makefile().readline())
                ports[rank] = port
                callers.append(caller)
        listed = [ports[rank] for rank in range(NODES)]
        for caller in callers:
            caller.sendall(json.dumps(listed).encode() + b"\n")
            caller.close()
    else:
        with connect(MASTER) as desk:
            desk.sendall(json.dumps([RANK, mine]).encode() + b"\n")
            listed = json.loads(desk.makefile().readline())
    following = (RANK + 1) % NODES
    ahead = connect((IPS[following], listed[following]))
    behind, who = here.accept()
    behind.settimeout(PATIENCE_S)
    print(f"rank {RANK}: the ring is closed, {who[0]} -> {IPS[RANK]} -> {IPS[following]}",
          flush=True)  # fmt: skip
    return ahead, behind


def all_reduce(values, ahead, behind):
    """The sum over all nodes: each part goes around once to be summed, and once to be told."""
    parts = np.array_split(values, NODES)
    for turn in range(2 * (NODES - 1)):
        sent, taken = (RANK - turn) % NODES, (RANK - turn - 1) % NODES
        ahead.sendall(parts[sent].tobytes())
        room = bytearray(parts[taken].nbytes)
        view = memoryview(room)
        while view:
            count = behind.recv_into(view)
            if not count:
                raise ConnectionError("another node has left")
            view = view[count:]
        came = np.frombuffer(room, values.dtype)
        parts[taken] = parts[taken] + came if turn < NODES - 1 else came
    return np.concatenate(parts)


def load():
    data = np.load("/in/digits.npz")
    images, labels = data["images"].reshape(len(data["images"]), -1) / 16.0, data["labels"]
    order = np.random.default_rng(7).permutation(len(images))
    images, labels = images[order].astype(np.float32), labels[order]
    cut = len(images) * 4 // 5
    return images[:cut], labels[:cut], images[cut:], labels[cut:]


def fresh():
    rng = np.random.default_rng(1)
    shapes = ((64, HIDDEN), (HIDDEN,), (HIDDEN, 10), (10,))
    return [rng.normal(0, 0.15, shape).astype(np.float32) for shape in shapes]


def odds(weights, images):
    hidden = np.maximum(images @ weights[0] + weights[1], 0)
    scores = hidden @ weights[2] + weights[3]
    found = np.exp(scores - scores.max(axis=1, keepdims=True))
    return hidden, found / found.sum(axis=1, keepdims=True)


def gradients(weights, images, labels):
    hidden, slope = odds(weights, images)
    slope[np.arange(len(labels)), labels] -= 1
    back = (slope @ weights[2].T) * (hidden > 0)
    found = [images.T @ back, back.sum(axis=0), hidden.T @ slope, slope.sum(axis=0)]
    return np.concatenate([one.ravel() for one in found])


def save(weights, epoch):
    draft = STATE.with_name("state.npz.part")
    with draft.open("wb") as file:
        np.savez(file, *weights, epoch=epoch)
    draft.rename(STATE)
    if "GRIDSOUK_PROGRESS" in os.environ:
        Path(os.environ["GRIDSOUK_PROGRESS"]).write_text(f"{epoch / EPOCHS:.4f}")


def main():
    images, labels, test_images, test_labels = load()
    weights, done = fresh(), 0
    if STATE.exists():
        state = np.load(STATE)
        weights, done = [state[f"arr_{n}"].copy() for n in range(4)], int(state["epoch"])
        print(f"rank {RANK}: going on after epoch {done}", flush=True)
    ahead, behind = meet()
    began, steps = time.monotonic(), 0
    for epoch in range(done + 1, EPOCHS + 1):
        order = np.random.default_rng(epoch).permutation(len(images))
        for start in range(0, len(order) - BATCH * NODES + 1, BATCH * NODES):
            chosen = order[start + RANK * BATCH : start + (RANK + 1) * BATCH]
            mine = gradients(weights, images[chosen], labels[chosen])
            total = all_reduce(mine, ahead, behind) / (BATCH * NODES)
            at, steps = 0, steps + 1
            for one in weights:
                one -= RATE * total[at : at + one.size].reshape(one.shape)
                at += one.size
        if epoch % 5 == 0 or epoch == EPOCHS:
            save(weights, epoch)
            right = float((odds(weights, test_images)[1].argmax(axis=1) == test_labels).mean())
            print(f"rank {RANK}: epoch {epoch}/{EPOCHS} accuracy {right:.4f}", flush=True)
    took = time.monotonic() - began
    print(f"rank {RANK}: {steps} steps of {4 * total.size} bytes, {took / max(1, steps) * 1000:.1f}"
          " ms each", flush=True)  # fmt: skip
    right = float((odds(weights, test_images)[1].argmax(axis=1) == test_labels).mean())
    checked = float(sum(np.abs(one).sum() for one in weights))
    Path("/out/metrics.json").write_text(json.dumps({"accuracy": right, "weights": checked}))


main()
