"""Train a small network on handwritten digits, with checkpoints: a real job for the sandbox.

Reads /in/digits.npz (8x8 images, scikit-learn's copy of the UCI set), writes the newest state to
the checkpoint directory and, at the end, /out/model.npz and /out/metrics.json. Started again with
the same checkpoint it goes on where it was. EPOCHS and HIDDEN set how much work it is; PACE is the
least time an epoch takes, in seconds, for a fast machine to show what happens on the way.
"""

import json
import os
import time
from pathlib import Path

import numpy as np

EPOCHS = int(os.environ.get("EPOCHS", "80"))
HIDDEN = int(os.environ.get("HIDDEN", "512"))
PACE = float(os.environ.get("PACE", "0"))
BATCH = 64
CHECKPOINTS = Path(os.environ.get("GRIDSOUK_CHECKPOINT", "/ckpt"))
OUT = Path("/out")
PROGRESS = os.environ.get("GRIDSOUK_PROGRESS", "")


def load():
    data = np.load("/in/digits.npz")
    images, labels = data["images"].reshape(len(data["images"]), -1) / 16.0, data["labels"]
    order = np.random.default_rng(7).permutation(len(images))
    images, labels = images[order].astype(np.float32), labels[order]
    cut = len(images) * 4 // 5
    return images[:cut], labels[:cut], images[cut:], labels[cut:]


def fresh():
    rng = np.random.default_rng(1)
    weights = {
        "w1": rng.normal(0, 0.15, (64, HIDDEN)).astype(np.float32),
        "b1": np.zeros(HIDDEN, np.float32),
        "w2": rng.normal(0, 0.05, (HIDDEN, HIDDEN)).astype(np.float32),
        "b2": np.zeros(HIDDEN, np.float32),
        "w3": rng.normal(0, 0.05, (HIDDEN, 10)).astype(np.float32),
        "b3": np.zeros(10, np.float32),
    }
    return weights, 0


def forward(weights, images):
    first = np.maximum(images @ weights["w1"] + weights["b1"], 0)
    second = np.maximum(first @ weights["w2"] + weights["b2"], 0)
    scores = second @ weights["w3"] + weights["b3"]
    scores -= scores.max(axis=1, keepdims=True)
    odds = np.exp(scores)
    return first, second, odds / odds.sum(axis=1, keepdims=True)


def step(weights, images, labels, rate):
    first, second, odds = forward(weights, images)
    loss = -np.log(odds[np.arange(len(labels)), labels] + 1e-9).mean()
    slope = odds.copy()
    slope[np.arange(len(labels)), labels] -= 1
    slope /= len(labels)
    back2 = (slope @ weights["w3"].T) * (second > 0)
    back1 = (back2 @ weights["w2"].T) * (first > 0)
    for name, into, out in (("3", second, slope), ("2", first, back2), ("1", images, back1)):
        weights["w" + name] -= rate * (into.T @ out)
        weights["b" + name] -= rate * out.sum(axis=0)
    return loss


def save(weights, epoch):
    part = CHECKPOINTS / "state.npz.part"
    with part.open("wb") as file:
        np.savez(file, epoch=epoch, **weights)
    part.rename(CHECKPOINTS / "state.npz")
    if PROGRESS:  # how far it is, from 0 to 1: what a slow provider is told by
        Path(PROGRESS).write_text(f"{epoch / EPOCHS:.4f}")


def resume():
    path = CHECKPOINTS / "state.npz"
    if not path.exists():
        print("starting from the beginning", flush=True)
        return fresh()
    state = np.load(path)
    epoch = int(state["epoch"])
    print(f"resuming after epoch {epoch}", flush=True)
    return {name: state[name].copy() for name in state.files if name != "epoch"}, epoch


def accuracy(weights, images, labels):
    return float((forward(weights, images)[2].argmax(axis=1) == labels).mean())


def main():
    images, labels, test_images, test_labels = load()
    weights, done = resume()
    begun = time.monotonic()
    loss = 0.0
    for epoch in range(done + 1, EPOCHS + 1):
        due = time.monotonic() + PACE
        order = np.random.default_rng(epoch).permutation(len(images))
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            loss = step(weights, images[chosen], labels[chosen], 0.02)
        time.sleep(max(0.0, due - time.monotonic()))
        if epoch % 5 == 0 or epoch == EPOCHS:
            save(weights, epoch)
            right = accuracy(weights, test_images, test_labels)
            print(f"epoch {epoch}/{EPOCHS} loss {loss:.4f} accuracy {right:.4f}", flush=True)
    right = accuracy(weights, test_images, test_labels)
    np.savez(OUT / "model.npz", **weights)
    metrics = {"accuracy": round(right, 4), "epochs": EPOCHS, "resumed_after": done}
    (OUT / "metrics.json").write_text(json.dumps(metrics) + "\n")
    print(f"done: accuracy {right:.4f}, {time.monotonic() - begun:.0f} s here", flush=True)


main()
