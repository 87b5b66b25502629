# Written by book/experiments/experiment.md. To keep edits: tangle.py --back.
"""Experiments: cases times seeds, in parallel, each run computed once."""

import os
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FunctionType
from typing import IO, Any

import joblib
import numpy as np
from threadpoolctl import threadpool_limits

from cnn.back.fingerprint import fingerprint
from cnn.network import load_arrays, save_arrays
from cnn.training import ProgressBar


def results_folder() -> Path:
    """Where results are kept: $CNN_RESULTS, else a cache folder.

    Anything in it may be deleted at any time; it is then computed again.
    """
    chosen = os.environ.get("CNN_RESULTS")
    return Path(chosen or "~/.cache/cnn-from-scratch/results").expanduser()


def compute(
    path: Path, experiment: Callable[..., Any], arguments: Mapping[str, Any]
) -> None:
    """Write what an experiment returns to a file, whole or not at all.

    path: the file.
    experiment: a function.
    arguments: those that it is called with, by name.
    """
    # One thread: the same bits, however many processors there are.
    with threadpool_limits(1):
        result = pickle.dumps(experiment(**arguments))
    save_arrays(path, {"result": np.frombuffer(result, np.uint8)})


def result_of(path: Path) -> Any:
    """What compute wrote to a file.

    path: the file.
    ValueError if it is damaged.
    """
    return pickle.loads(load_arrays(path)["result"].tobytes())


@contextmanager
def terminal() -> Iterator[IO[str] | None]:
    """The terminal that $CNN_TERMINAL names, or None if there is none.

    While a book is built, its cells have no terminal of their own.
    """
    file = None
    with suppress(Exception):  # it may be another's, or hold no file at all
        name = os.environ["CNN_TERMINAL"]
        file = open(name, "w", encoding="locale")  # noqa: SIM115
    try:
        yield file
    finally:
        if file:
            with suppress(Exception):  # it may be gone by now
                file.close()


def run_side_by_side(jobs: Sequence[Any]) -> None:
    """Run jobs in as many processes as there are processors, with a bar.

    jobs: joblib's delayed calls.
    """
    processes = min(len(jobs), joblib.cpu_count())
    pool = joblib.Parallel(processes, return_as="generator_unordered")
    with terminal() as file:
        bar = ProgressBar(total=len(jobs), file=file)
        for _ in pool(jobs):
            bar.show("update")
        bar.show("close")


def run_experiment(
    experiment: FunctionType,
    cases: Mapping[Any, Mapping[str, Any]],
    *,
    seeds: int = 5,
    **shared: Any,
) -> dict[Any, list[Any]]:
    """Run experiment(seed=s, **case, **shared) for each case and seed.

    experiment: a function of seed, of a case's arguments and of shared.
    cases: the arguments of each case, under the name of the case.
    seeds: how many; they are 0, 1, 2, ...
    shared: the arguments that are the same in all runs.
    Returns the results of all seeds for each case, under its name. The
    runs share the processors, one thread each. Each result is kept on the
    disk as soon as it is there, under a fingerprint of all it depends on.
    So a run is repeated only when that changes, and an interruption loses
    only the runs that were under way.
    ValueError if seeds is below 1.
    """
    if not isinstance(seeds, int | np.integer) or seeds < 1:
        raise ValueError(
            f"seeds is {seeds!r}; expected at least 1, a whole number, better "
            "5: one run cannot tell an effect from luck."
        )
    page = experiment.__module__
    folder = results_folder()
    folder.mkdir(parents=True, exist_ok=True)
    common = fingerprint([compute, experiment, shared], page)
    paths = {}
    for name, case in cases.items():
        key = fingerprint([common, dict(case)], page)
        paths[name] = [folder / f"{key}-{seed}" for seed in range(seeds)]
    jobs = {
        path: {"seed": seed, **cases[name], **shared}
        for name, files in paths.items()
        for seed, path in enumerate(files)
        if not path.exists()
    }
    if jobs:
        call = joblib.delayed(compute)
        run_side_by_side([call(path, experiment, jobs[path]) for path in jobs])
    return {name: [*map(result_of, files)] for name, files in paths.items()}
