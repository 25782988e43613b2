"""Submit a sweep and plot it: the same training with twenty sizes of network, where it is cheap.

    souk up                                 # another terminal; and an image: souk image build base
    python examples/sweep.py --count 20 --plot sweep.png

The jobs wait in line at the providers and run as units get free. Ctrl-C leaves them running;
`async with node.connect()` is the same for notebooks.
"""

import argparse
import json
import tempfile
from pathlib import Path

import node

HERE = Path(__file__).resolve().parent


def main():
    given = argparse.ArgumentParser(description="a sweep over the size of the network")
    given.add_argument("--count", type=int, default=20)
    given.add_argument("--epochs", type=int, default=10)
    given.add_argument("--plot", type=Path, help="PNG or SVG; needs matplotlib")
    options = given.parse_args()
    sizes = [round(8 * 1.35**step) for step in range(options.count)]
    with node.connect_sync() as souk:
        jobs = {}
        for size in sizes:
            envs = {"HIDDEN": size, "EPOCHS": options.epochs}
            jobs[size] = souk.run(HERE / "train.yaml", envs=envs, name=f"digits-{size}")
            print(f"{size:6} hidden units: {jobs[size].id[:12]}", flush=True)
        found = {}
        for size, job in jobs.items():
            last = job.wait()
            if last["state"] != "SUCCEEDED":
                print(f"{size:6} hidden units: {last['state']}: {last['reason']}")
                continue
            with tempfile.TemporaryDirectory() as folder:
                metrics = next(file for file in job.get(folder) if file.name == "metrics.json")
                found[size] = json.loads(metrics.read_text())["accuracy"]
            print(f"{size:6} hidden units: {found[size]:.1%}, {last['promised']} paid", flush=True)
    if options.plot and found:
        plot(found, options.plot)


def plot(found, place):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
    axes.plot(list(found), [100 * share for share in found.values()], marker="o")
    axes.set(xscale="log", xlabel="hidden units", ylabel="accuracy, %", title="A sweep of digits")
    axes.grid(alpha=0.3)
    figure.savefig(place, dpi=150)
    print(place)


if __name__ == "__main__":
    main()
