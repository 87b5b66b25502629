# Written by book/experiments/experiment.md. To keep edits: tangle.py --back.
"""Experiments: cases times seeds, in parallel, each run computed once."""

import ast
import dis
import inspect
import os
import platform
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np


def globals_read(code: CodeType) -> Iterator[str]:
    """The names of the globals that code, and the code within it, reads."""
    for instruction in dis.get_instructions(code):
        if instruction.opname == "LOAD_GLOBAL":
            yield instruction.argval
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from globals_read(constant)


def ingredients(experiment: FunctionType) -> dict[str, Any]:
    """What the code of an experiment is, by name.

    Its source; that of each function, and of each class's methods, of the
    same page or module that it reaches; and the value of each constant that
    they read. What is imported from elsewhere is left out.
    """
    found: dict[str, Any] = {}
    waiting: list[tuple[str, Any]] = [(experiment.__name__, experiment)]
    while waiting:
        name, value = waiting.pop()
        if name in found or isinstance(value, ModuleType):
            continue
        if not hasattr(value, "__qualname__"):
            found[name] = value  # a constant
        elif value.__module__ == experiment.__module__:
            members = vars(value).values() if isinstance(value, type) else ()
            functions = [
                member
                for member in (value, *members)
                if isinstance(member, FunctionType)
            ]
            found[name] = [inspect.getsource(f) for f in functions]
            waiting += [
                (word, f.__globals__[word])
                for f in functions
                for word in globals_read(f.__code__)
                if word in f.__globals__
            ]
    return found


def package_state() -> list[str]:
    """The code of cnn, whatever its comments, and what it runs on.

    The plots are left out: a figure in other colours changes no result.
    """
    modules = sorted(Path(__file__).parent.glob("*.py"))
    code = [
        ast.dump(ast.parse(module.read_text(encoding="utf-8")))
        for module in modules
        if module.name != "plots.py"
    ]
    return [platform.python_version(), np.__version__, *code]


def results_folder() -> Path:
    """Where results are kept: $CNN_RESULTS, else a cache folder.

    Anything in it may be deleted at any time; it is then computed again.
    """
    chosen = os.environ.get("CNN_RESULTS")
    return Path(chosen or "~/.cache/cnn-from-scratch/results").expanduser()


def compute(
    path: Path, experiment: Callable[..., Any], arguments: dict[str, Any]
) -> None:
    """Write experiment(**arguments) to path, whole or not at all."""
    import joblib

    result = experiment(**arguments)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as aside:
        try:
            joblib.dump(result, aside)
            aside.close()
            os.replace(aside.name, path)
        finally:
            Path(aside.name).unlink(missing_ok=True)


def run_side_by_side(jobs: Sequence[Any]) -> None:
    """Run joblib's delayed jobs in as many processes as processors.

    A bar shows progress in a terminal; while a book is built, in the one
    that $CNN_TERMINAL names.
    """
    import joblib
    from tqdm import tqdm

    pool = joblib.Parallel(
        min(len(jobs), joblib.cpu_count()), return_as="generator_unordered"
    )
    terminal = os.environ.get("CNN_TERMINAL")
    # One thread each: the same bits, however many processors there are.
    with (
        joblib.parallel_config("loky", inner_max_num_threads=1),
        open(terminal, "w") if terminal else nullcontext() as screen,
    ):
        for _ in tqdm(pool(jobs), total=len(jobs), file=screen, disable=None):
            pass


def run_experiment(
    experiment: FunctionType,
    cases: Mapping[str, Mapping[str, Any]],
    *,
    seeds: int = 5,
    **shared: Any,
) -> dict[str, list[Any]]:
    """Run experiment(seed=s, **case, **shared) for each case and seed.

    Returns, for each case by name, the results of seeds 0, 1, 2, ...
    The runs share the processors, one thread each. Every result is kept on
    the disk under a hash of all that it depends on, as soon as it is there:
    the code of the experiment, of cnn, the arguments. So a run is repeated
    only when one of these changes, and an interruption loses only the runs
    that were under way. ValueError if seeds is below 1.
    """
    import joblib

    if seeds < 1:
        raise ValueError(
            f"seeds is {seeds}; expected at least 1, better 5: one run "
            "cannot tell an effect from luck."
        )
    folder = results_folder()
    folder.mkdir(parents=True, exist_ok=True)
    common = joblib.hash((ingredients(experiment), package_state(), shared))
    paths = {
        (name, seed): folder / joblib.hash((common, dict(case), seed))
        for name, case in cases.items()
        for seed in range(seeds)
    }
    jobs = [
        joblib.delayed(compute)(
            path, experiment, {"seed": seed, **cases[name], **shared}
        )
        for (name, seed), path in paths.items()
        if not path.exists()
    ]
    if jobs:
        run_side_by_side(jobs)
    return {
        name: [joblib.load(paths[name, seed]) for seed in range(seeds)]
        for name in cases
    }
