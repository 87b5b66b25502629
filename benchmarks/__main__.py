"""Time cnn beside PyTorch, JAX and plain NumPy: python -m benchmarks.

    python -m benchmarks                           eight minutes
    python -m benchmarks --full                    thrice started, and more
    python -m benchmarks --json FILE --figure FILE

All take turns in one run, each in a process of its own, with the same weights
and images, in float32, with the same number of threads; their first losses
must agree. What carries over to another machine is the ratio to PyTorch's
time. PyTorch runs as it comes and once more, "kept", with the advice to the C
library that cnn.keep_freed_memory gives.
"""

import argparse
import json
import math
import os
import platform
import statistics
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

import cnn
from benchmarks.contestants import CONTESTANTS, Plan, Task, build
from benchmarks.runner import Runner, measure_memory, new_process, seconds


def one_convolution(
    filters: int, kernel: int, pool: int = 2, stride: int = 2
) -> Plan:
    """One convolution, as in the networks of the first page and full run."""
    size = (28 - kernel + 1 - pool) // stride + 1
    return (
        ("conv", 1, filters, kernel),
        ("relu",),
        ("pool", pool, stride),
        ("flatten",),
        ("linear", filters * size * size, 10),
    )


TWO = (
    ("conv", 1, 16, 5),
    ("relu",),
    ("pool", 2, 2),
    ("conv", 16, 32, 5),
    ("relu",),
    ("pool", 2, 2),
    ("flatten",),
    ("linear", 512, 128),
    ("relu",),
    ("linear", 128, 10),
)
# Each with its microbatch size, tried out.
NETWORKS: dict[str, tuple[Plan, int]] = {
    "8 @ 3x3": (one_convolution(8, 3), 64),
    "32 @ 5x5": (one_convolution(32, 5), 48),
    "16, 32 @ 5x5 + 128": (TWO, 64),
    "32 @ 7x7, pool 4/3": (one_convolution(32, 7, 4, 3), 48),
}
BATCHES = 32, 64, 128, 256
MEMORY_OF = ("cnn", "cnn.train_step", "PyTorch", "JAX jit")


def task(name: str, batch: int, threads: int) -> Task:
    """A network of the list, a random batch and random weights."""
    plan, microbatch_size = NETWORKS[name]
    rng = np.random.default_rng(0)
    weights = [p.value for p in build(plan, rng).parameters()]
    images = rng.standard_normal((batch, 1, 28, 28)).astype(np.float32)
    labels = rng.integers(0, 10, batch)
    return Task(plan, weights, images, labels, threads, microbatch_size)


def flops(plan: Plan) -> int:
    """Multiplications and additions of a training step, for one image."""
    size, total = 28, 0
    for place, (kind, *sizes) in enumerate(plan):
        if kind == "conv":
            channels, filters, k = sizes
            size -= k - 1
            once = 2 * filters * channels * k * k * size * size
        elif kind == "pool":
            pool, stride = sizes
            size = (size - pool) // stride + 1
            continue
        else:
            once = 2 * math.prod(sizes) if kind == "linear" else 0
        total += once * (2 if place == 0 else 3)  # no gradient to the images
    return total


def peak_flops(threads: int) -> float:
    """Floating-point operations a second in a large product, at best."""
    a = np.ones((1024, 1024), np.float32)
    with threadpool_limits(threads, user_api="blas"):
        return 2 * 1024**3 / min(seconds(lambda: a @ a, 0.2) for _ in "123")


# By kind, then one entry a turn: seconds by contestant.
Turns = dict[str, list[dict[str, float]]]


def take_turns(
    the_task: Task, rounds: int, turns: Turns, absent: dict[str, str]
) -> None:
    """Start every contestant and add their turns to what there is.

    absent: why those that could not take part did not.
    """
    runs: dict[str, Runner] = {}
    with ExitStack() as stack:
        for label in CONTESTANTS:
            if label in absent:
                continue
            try:
                runs[label] = runner = Runner(label, the_task)
            except Exception as error:
                if label in ("cnn", "PyTorch"):  # without them, no ratio
                    raise
                absent[label] = (str(error) or repr(error)).splitlines()[0]
                continue
            stack.callback(runner.pool.shutdown)
        first = runs["cnn"].loss
        for label, runner in runs.items():
            assert abs(runner.loss - first) < 1e-3, f"{label}: {runner.loss}"
        for kind in ("train", "infer"):
            turns.setdefault(kind, []).extend(
                {
                    label: runner.call(Runner.time, kind)
                    for label, runner in runs.items()
                }
                for _ in range(rounds)
            )


def compare(
    name: str, batch: int, threads: int, starts: int, rounds: int = 3
) -> tuple[dict[str, Any], dict[str, str]]:
    """Seconds of a step and of inference for each contestant, in turns.

    Also why those that could not take part did not. Where the system puts
    a process's threads can stay with it, so it is better to start all
    several times.
    """
    turns: Turns = {}
    absent: dict[str, str] = {}
    for _ in range(starts):
        take_turns(task(name, batch, threads), rounds, turns, absent)
    found: dict[str, Any] = {}
    for label in [label for label in CONTESTANTS if label not in absent]:
        for kind, by_turn in turns.items():
            ratios = [turn[label] / turn["PyTorch"] for turn in by_turn]
            found.setdefault(label, {})[kind] = one = {
                "seconds": statistics.median(turn[label] for turn in by_turn),
                "ratio": statistics.median(ratios),
                "ratio_low": min(ratios),
                "ratio_high": max(ratios),
            }
            compiled = "PyTorch compiled"
            if compiled not in absent:
                one["vs_compiled"] = statistics.median(
                    turn[label] / turn[compiled] for turn in by_turn
                )
    return found, absent


def peak_memory(label: str, name: str, batch: int, threads: int) -> float:
    """Megabytes at the peak of training steps; nan where nobody can tell."""
    small, large = task(name, 4, threads), task(name, batch, threads)
    with new_process() as pool:
        try:
            return pool.submit(measure_memory, label, small, large).result()
        except OSError:  # no /proc
            return math.nan


# What is varied, one at a time, from 16 filters of 5x5 on 28 x 28 x 1.
SIZES: dict[str, tuple[int, ...]] = {
    "batch": (16, 32, 64, 128, 256, 512),
    "image": (14, 20, 28, 40, 56),
    "channels": (1, 2, 4, 8, 16),
    "filters": (4, 8, 16, 32, 64),
    "kernel": (1, 3, 5, 7, 9),
}


def units(what: str) -> tuple[str, np.ndarray]:
    """What the cost should grow with: of an image, its pixels."""
    sizes = np.array(SIZES[what])
    return ("pixels", sizes**2) if what == "image" else (what, sizes)


def cost_against_size(threads: int) -> dict[str, list[float]]:
    """Seconds of a step with one size varied, the others held.

    The frame of zeros makes as many outputs as there are pixels.
    """
    found: dict[str, list[float]] = {}
    for what, values in SIZES.items():
        for value in values:
            size = {"batch": 64, "image": 28, "channels": 1, "filters": 16}
            size = size | {"kernel": 5} | {what: value}
            channels, filters, k = (
                size["channels"],
                size["filters"],
                size["kernel"],
            )
            side = size["image"]
            plan: Plan = (
                ("conv", channels, filters, k, 1, k // 2),
                ("relu",),
                ("pool", 2, 2),
                ("flatten",),
                ("linear", filters * (side // 2) ** 2, 10),
            )
            rng = np.random.default_rng(0)
            shape = size["batch"], channels, side, side
            x = rng.standard_normal(shape).astype(np.float32)
            labels = rng.integers(0, 10, len(x))
            network = build(plan, rng)
            sgd = cnn.SGD(network.parameters(), 0.01)
            block = max(16, 48 * 28**2 // side**2)  # for the cache
            with cnn.ParallelStep(
                network, workers=threads, microbatch_size=block
            ) as step:

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
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=4,
        fontsize=8,
    )
    for what, times in results["cost_against_size"].items():
        name, sizes = units(what)
        axes[1, 1].plot(
            sizes / sizes[0], np.array(times) / times[0], "o-", label=name
        )
    axes[1, 1].set(title="cost against size", xscale="log", yscale="log")
    axes[1, 1].set(xlabel="size, against the least", ylabel="time, likewise")
    axes[1, 1].legend(fontsize=8)
    figure.savefig(path)


def machine(threads: int) -> dict[str, Any]:
    """What the figures depend on."""
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
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


def print_machine(results: dict[str, Any]) -> None:
    """What the figures depend on, and what the columns mean."""
    print(json.dumps(results["machine"], indent=1))
    print("\na training step and inference; ratio: to PyTorch's time, in")
    print("brackets its least and greatest; peak: share of the product peak")


def print_rows(name: str, batch: int, found: dict[str, Any]) -> None:
    """A row for each contestant."""
    for label, times in found.items():
        train, infer = times["train"], times["infer"]
        print(
            f"{batch:4} {label:17} {1e3 * train['seconds']:9.2f}"
            f"{train['ratio']:8.2f} ({train['ratio_low']:.2f}-"
            f"{train['ratio_high']:.2f}){train['share_of_peak']:9.0%}"
            f"{1e3 * infer['seconds']:11.2f}{infer['ratio']:6.2f}",
            flush=True,
        )


def print_summary(networks: dict[str, Any]) -> None:
    """The rows that the book speaks of, as ratios to PyTorch's time."""
    print("\nstep: ParallelStep and the plain step, PyTorch eager = 1;")
    print("inference: fused, PyTorch compiled = 1")
    print(f"{'':22}{'batch':>5}{'step':>8}{'plain':>8}{'inference':>11}")
    for name, by_batch in networks.items():
        for batch, found in by_batch.items():
            ours, plain = found["cnn"], found["cnn.train_step"]
            compiled = found.get("PyTorch compiled")
            inference = "none"
            if compiled:
                inference = f"{ours['infer']['vs_compiled']:.2f}"
            print(
                f"{name:22}{batch:5}{ours['train']['ratio']:8.2f}"
                f"{plain['train']['ratio']:8.2f}{inference:>11}"
            )


def print_memory(results: dict[str, dict[str, float]]) -> None:
    """Megabytes, a row for each network."""
    print("\npeak memory of training steps at batch 256, MB")
    for name, found in results.items():
        figures = (f"{label} {mb:.1f}" for label, mb in found.items())
        print(f"{name:22} ", ", ".join(figures), flush=True)


def print_costs(results: dict[str, list[float]]) -> None:
    """A row for each size that was varied, with the power it grows by."""
    print("\ncost against size: 16 @ 5x5 on 64 images of 28 x 28, one varied")
    for what, times in results.items():
        name, sizes = units(what)
        power = np.polyfit(np.log(sizes[-3:]), np.log(times[-3:]), 1)[0]
        listed = ", ".join(
            f"{value}: {1e3 * s:.2f}"
            for value, s in zip(SIZES[what], times, strict=True)
        )
        print(f"{what:9} ms {listed}; as {name} to the {power:.2f}")


def measure_networks(
    results: dict[str, Any], threads: int, starts: int
) -> None:
    """Each network at each batch size; a table that grows meanwhile."""
    peak = results["machine"]["peak_gflops"]
    for name, (plan, _) in NETWORKS.items():
        print(
            f"\n{name:22}  train ms   ratio            peak    infer ms ratio"
        )
        for batch in BATCHES:
            found, gone = compare(name, batch, threads, starts)
            results["absent"] |= gone
            results["networks"].setdefault(name, {})[batch] = found
            for times in found.values():
                gflops = flops(plan) * batch / times["train"]["seconds"] / 1e9
                times["train"]["share_of_peak"] = gflops / peak
            print_rows(name, batch, found)


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(
        "benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--figure", type=Path, metavar="FILE")
    options = parser.parse_args()
    threads = options.threads
    cnn.keep_freed_memory()
    results: dict[str, Any] = {"machine": machine(threads)}
    results |= {"networks": {}, "absent": {}}
    print_machine(results)
    measure_networks(results, threads, starts=3 if options.full else 1)
    for label, reason in results["absent"].items():
        print(f"\n{label} did not take part: {reason}")
    print_summary(results["networks"])
    results["memory_mb"] = {
        name: {
            label: peak_memory(label, name, 256, threads)
            for label in MEMORY_OF
            if label not in results["absent"]
        }
        for name in (NETWORKS if options.full else list(NETWORKS)[-1:])
    }
    print_memory(results["memory_mb"])
    if options.full or options.figure:
        results["cost_against_size"] = cost_against_size(threads)
        print_costs(results["cost_against_size"])
    if options.json:
        options.json.write_text(json.dumps(results, indent=1), "utf-8")
    if options.figure:
        draw(results, options.figure)


if __name__ == "__main__":
    main()
