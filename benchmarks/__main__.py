"""Time cnn beside PyTorch, JAX and plain NumPy: python -m benchmarks.

    python -m benchmarks                           two minutes
    python -m benchmarks --full                    all batch sizes, five
    python -m benchmarks --json FILE --figure FILE

All take turns in one run, with the same weights and images, in float32, with
the same number of threads; their first losses must agree. What carries over
to another machine is the ratio to PyTorch's time. Each turn is preceded by a
pause, as idle threads look for work for some milliseconds before they sleep.
"""

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

import cnn
from benchmarks.contestants import CONTESTANTS, Contestant, Plan, Task, build


def seed_plan(filters: int, kernel: int) -> Plan:
    """The network of the book's first page."""
    size = (28 - kernel + 1) // 2
    return (
        ("conv", 1, filters, kernel),
        ("relu",),
        ("pool", 2),
        ("flatten",),
        ("linear", filters * size * size, 10),
    )


TWO = (
    ("conv", 1, 16, 5),
    ("relu",),
    ("pool", 2),
    ("conv", 16, 32, 5),
    ("relu",),
    ("pool", 2),
    ("flatten",),
    ("linear", 512, 128),
    ("relu",),
    ("linear", 128, 10),
)
# Each with its block size, tried out in the chapter Making it fast.
NETWORKS: dict[str, tuple[Plan, int]] = {
    "8 @ 3x3": (seed_plan(8, 3), 64),
    "32 @ 5x5": (seed_plan(32, 5), 48),
    "16, 32 @ 5x5 + 128": (TWO, 96),
}
MEMORY_OF = ("cnn", "cnn.train_step", "PyTorch", "JAX jit")


def task(name: str, batch: int, threads: int) -> Task:
    """A network of the list, a random batch and random weights."""
    plan, block_size = NETWORKS[name]
    rng = np.random.default_rng(0)
    weights = [p.value for p in build(plan, rng).parameters()]
    images = rng.standard_normal((batch, 1, 28, 28)).astype(np.float32)
    labels = rng.integers(0, 10, batch)
    return Task(plan, weights, images, labels, threads, block_size)


def flops(plan: Plan) -> int:
    """Multiplications and additions of a training step, for one image."""
    size, total = 28, 0
    for place, (kind, *sizes) in enumerate(plan):
        if kind == "conv":
            channels, filters, k = sizes
            size -= k - 1
            once = 2 * filters * channels * k * k * size * size
        elif kind == "pool":
            size //= sizes[0]
            continue
        else:
            once = 2 * math.prod(sizes) if kind == "linear" else 0
        total += once * (2 if place == 0 else 3)  # no gradient to the images
    return total


def seconds(f: Callable[[], Any], at_least: float) -> float:
    """The median of several calls, after two that are not counted."""
    time.sleep(0.02)
    f(), f()
    times: list[float] = []
    while sum(times) < at_least or len(times) < 3:
        start = time.perf_counter()
        f()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def peak_flops(threads: int) -> float:
    """Floating-point operations a second in a large product, at best."""
    a = np.ones((1024, 1024), np.float32)
    with threadpool_limits(threads, user_api="blas"):
        return 2 * 1024**3 / min(seconds(lambda: a @ a, 0.2) for _ in "123")


def compare(
    name: str, batch: int, threads: int, rounds: int
) -> tuple[dict[str, Any], dict[str, str]]:
    """Seconds of a step and of inference for each contestant, in turns.

    Also why those that could not take part did not.
    """
    the_task, first = task(name, batch, threads), list[float]()
    runs: dict[str, Contestant] = {}
    absent: dict[str, str] = {}
    with ExitStack() as stack, threadpool_limits(threads, user_api="blas"):
        for label, maker in CONTESTANTS.items():
            try:
                runs[label] = stack.enter_context(maker(the_task))
                loss = runs[label].train()
            except Exception as error:
                runs.pop(label, None)
                absent[label] = (str(error) or repr(error)).splitlines()[0]
                continue
            first.append(loss)
            assert abs(loss - first[0]) < 1e-3, f"{label}: {loss}, {first}"
        found: dict[str, Any] = {}
        for kind in ("train", "infer"):
            turns = [
                {
                    label: seconds(getattr(run, kind), 0.03)
                    for label, run in runs.items()
                }
                for _ in range(rounds)
            ]
            for label in runs:
                ratios = [turn[label] / turn["PyTorch"] for turn in turns]
                found.setdefault(label, {})[kind] = {
                    "seconds": statistics.median(t[label] for t in turns),
                    "ratio": statistics.median(ratios),
                    "ratio_low": min(ratios),
                    "ratio_high": max(ratios),
                }
    return found, absent


def status(pid: int | str, key: str) -> float:
    """A figure in megabytes from Linux's list about a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) / 1024
    raise KeyError(key)


def measure_memory(label: str, name: str, batch: int, threads: int) -> float:
    """Megabytes that training steps add, at their peak, to what was there.

    What was there: the libraries, the network, the batch, and whatever a
    step on four images leaves behind. All processes are added up.
    """
    small, large = task(name, 4, threads), task(name, batch, threads)
    added = 0.0
    with CONTESTANTS[label](small) as run:
        run.train()
    with CONTESTANTS[label](large) as run:
        time.sleep(1)  # for the other processes to have started
        pids = ["self", *run.others]
        before = [status(pid, "VmRSS") for pid in pids]
        for pid in pids:
            Path(f"/proc/{pid}/clear_refs").write_text("5")
        for _ in range(5):
            run.train()
        for pid, resident in zip(pids, before, strict=True):
            added += status(pid, "VmHWM") - resident
    return added


def peak_memory(label: str, name: str, batch: int, threads: int) -> float:
    """The same in a process of its own; nan where it cannot be had."""
    arguments = ["--memory", label, name, str(batch)]
    arguments += ["--threads", str(threads)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        capture_output=True,
        text=True,
    )
    return float(done.stdout) if done.returncode == 0 else math.nan


# What is varied, one at a time, from 16 filters of 5x5 on 28 x 28 x 1.
SIZES: dict[str, tuple[int, ...]] = {
    "batch": (16, 32, 64, 128, 256, 512),
    "image": (14, 20, 28, 40, 56),
    "channels": (1, 2, 4, 8, 16),
    "filters": (4, 8, 16, 32, 64),
    "kernel": (1, 3, 5, 7, 9),
}


def cost_against_size(threads: int) -> dict[str, list[float]]:
    """Seconds of a step with one size varied, the others held."""
    found: dict[str, list[float]] = {}
    for what, values in SIZES.items():
        for value in values:
            size = {"batch": 64, "image": 28, "channels": 1, "filters": 16}
            size = size | {"kernel": 5} | {what: value}
            side = (size["image"] - size["kernel"] + 1) // 2
            plan: Plan = (
                ("conv", size["channels"], size["filters"], size["kernel"]),
                ("relu",),
                ("pool", 2),
                ("flatten",),
                ("linear", size["filters"] * side * side, 10),
            )
            rng = np.random.default_rng(0)
            shape = size["batch"], size["channels"], *[size["image"]] * 2
            x = rng.standard_normal(shape).astype(np.float32)
            labels = rng.integers(0, 10, len(x))
            network = build(plan, rng)
            sgd = cnn.SGD(network.parameters(), 0.01)
            with cnn.ParallelStep(network, workers=threads) as step:

                def train(
                    step: Any = step,
                    batch: Any = (network, sgd, x, labels),
                ) -> None:
                    step(*batch)

                best = min(seconds(train, 0.03) for _ in "12")
            found.setdefault(what, []).append(best)
    return found


def draw(results: dict[str, Any], path: Path) -> None:
    """Time per image against the batch, and the cost against sizes."""
    import matplotlib.pyplot as plt

    names = list(results["networks"])
    figure, axes = plt.subplots(2, 2, figsize=(9, 7), layout="constrained")
    for ax, name in zip(axes.flat, names, strict=False):
        by_batch = results["networks"][name]
        for label in CONTESTANTS:
            points = [
                (int(batch), 1e6 * found[label]["train"]["seconds"])
                for batch, found in by_batch.items()
                if label in found
            ]
            if points:
                batches, times = np.array(points).T
                ax.plot(batches, times / batches, "o-", label=label)
        ax.set(title=name, xscale="log", yscale="log")
        ax.set(xlabel="batch size", ylabel="µs per image, a training step")
        ax.set_xticks(batches, [f"{batch:.0f}" for batch in batches])
        ax.minorticks_off()
    axes[0, 0].legend(fontsize=8)
    for what, times in results["cost_against_size"].items():
        sizes = np.array(SIZES[what])
        axes[1, 1].plot(
            sizes / sizes[0], np.array(times) / times[0], "o-", label=what
        )
    axes[1, 1].set(title="cost against size", xscale="log", yscale="log")
    axes[1, 1].set(xlabel="size, against the least", ylabel="time, likewise")
    axes[1, 1].legend(fontsize=8)
    figure.savefig(path)


def machine(threads: int) -> dict[str, Any]:
    """What the figures depend on."""
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        models = [s.split(":")[1] for s in lines if s.startswith("model name")]
        model = models[0].strip() if models else model
    versions = {"python": platform.python_version()}
    for package in ("numpy", "torch", "jax"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "threads": threads,
        "versions": versions,
        "peak_gflops": peak_flops(threads) / 1e9,
    }


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser("benchmarks", description=__doc__)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--figure", type=Path, metavar="FILE")
    parser.add_argument("--memory", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    threads = options.threads
    cnn.keep_freed_memory()
    if options.memory:
        label, name, batch = options.memory
        print(measure_memory(label, name, int(batch), threads))
        return
    results: dict[str, Any] = {"machine": machine(threads), "networks": {}}
    peak = results["machine"]["peak_gflops"]
    print(json.dumps(results["machine"], indent=1))
    print("\na training step and inference; ratio: to PyTorch's time, in")
    print("brackets its least and greatest; peak: share of the product peak")
    batches = (32, 64, 128, 256) if options.full else (32, 256)
    absent: dict[str, str] = {}
    for name, (plan, _) in NETWORKS.items():
        print(
            f"\n{name:22}  train ms   ratio            peak    infer ms ratio"
        )
        for batch in batches:
            found, gone = compare(
                name, batch, threads, 7 if options.full else 5
            )
            absent |= gone
            results["networks"].setdefault(name, {})[batch] = found
            for label, times in found.items():
                train, infer = times["train"], times["infer"]
                gflops = flops(plan) * batch / train["seconds"] / 1e9
                train["share_of_peak"] = gflops / peak
                print(
                    f"{batch:4} {label:17} {1e3 * train['seconds']:9.2f}"
                    f"{train['ratio']:8.2f} ({train['ratio_low']:.2f}-"
                    f"{train['ratio_high']:.2f}){gflops / peak:9.0%}"
                    f"{1e3 * infer['seconds']:11.2f}{infer['ratio']:6.2f}",
                    flush=True,
                )
    for label, reason in absent.items():
        print(f"\n{label} did not take part: {reason}")
    results["absent"] = absent
    print("\npeak memory of training steps at batch 256, MB")
    results["memory_mb"] = {}
    for name in NETWORKS if options.full else list(NETWORKS)[-1:]:
        results["memory_mb"][name] = found = {
            label: peak_memory(label, name, 256, threads)
            for label in MEMORY_OF
            if label not in absent
        }
        figures = (f"{label} {mb:.1f}" for label, mb in found.items())
        print(f"{name:22} ", ", ".join(figures), flush=True)
    results["cost_against_size"] = cost_against_size(threads)
    print("\ncost against size: 16 @ 5x5 on 64 images of 28 x 28, one varied")
    for what, times in results["cost_against_size"].items():
        sizes = SIZES[what]
        power = np.polyfit(np.log(sizes[-3:]), np.log(times[-3:]), 1)[0]
        figures = (
            f"{value}: {1e3 * s:.2f}"
            for value, s in zip(sizes, times, strict=True)
        )
        print(f"{what:9} ms {', '.join(figures)}; grows as its {power:.1f}th")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    if options.figure:
        draw(results, options.figure)


if __name__ == "__main__":
    main()
