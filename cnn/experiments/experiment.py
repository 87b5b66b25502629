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


def instructions(code: CodeType) -> list[Any]:
    """What compiled code does, whatever its comments and line numbers."""
    constants = [
        instructions(constant)
        if isinstance(constant, CodeType)
        else sorted(map(repr, constant))  # a set has no order of its own
        if isinstance(constant, frozenset)
        else constant
        for constant in code.co_consts
    ]
    names = [code.co_names, code.co_varnames]
    return [code.co_code, code.co_exceptiontable, names, constants]


def spell_out(value: Any, page: str, known: dict[Any, int]) -> Any:
    """A value with the functions and classes of a page spelled out in it.

    A function becomes its instructions, its defaults and what it reads; a
    class its bases and members; a list or dict has its items spelled out.
    What comes from another module than page is only named.
    known: the functions and classes met so far, each with its number.
    """

    def deeper(part: Any) -> Any:
        return spell_out(part, page, known)

    if isinstance(value, ModuleType):
        return value.__name__
    if isinstance(value, dict):
        return {key: deeper(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [type(value).__name__, *map(deeper, value)]
    if not isinstance(value, FunctionType | type):
        value = inspect.unwrap(value)  # of @cache or @staticmethod
    if not isinstance(value, FunctionType | type):
        kind = type(value)
        return [value, deeper(kind)] if kind.__module__ == page else value
    if value.__module__ != page:
        return [value.__module__, value.__qualname__]
    if value in known:
        return ["known", known[value]]
    known[value] = len(known)
    if isinstance(value, type):
        members = {
            name: getattr(member, "fget", member)  # of a property
            for name, member in vars(value).items()
            if isinstance(member, FunctionType) or not name.startswith("__")
        }
        return [value.__qualname__, deeper(value.__bases__), deeper(members)]
    code, scope = value.__code__, value.__globals__
    read = {name: scope[name] for name in globals_read(code) if name in scope}
    held = [cell.cell_contents for cell in value.__closure__ or ()]
    defaults = [value.__defaults__, value.__kwdefaults__]
    return [instructions(code), deeper(read), deeper(held), deeper(defaults)]


# What names, draws or shares out the work changes no result.
NOT_COUNTED = (
    "__init__.py",
    "plots.py",
    "fast.py",
    "parallel.py",
    "workers.py",
)


def package_state() -> list[str]:
    """The code of cnn, whatever its comments, and what it runs on."""
    code = [
        ast.dump(ast.parse(module.read_text(encoding="utf-8")))
        for module in sorted(Path(__file__).parents[1].rglob("*.py"))
        if module.name not in NOT_COUNTED
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
    from threadpoolctl import threadpool_limits

    # One thread: the same bits, however many processors there are.
    with threadpool_limits(1):
        result = experiment(**arguments)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as aside:
        try:
            joblib.dump(result, aside)
            aside.flush()
            os.fsync(aside.fileno())
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
    with open(terminal, "w") if terminal else nullcontext() as screen:
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
    page = experiment.__module__
    folder = results_folder()
    folder.mkdir(parents=True, exist_ok=True)
    common = spell_out([experiment, shared], page, {}), package_state()
    prefix = joblib.hash(common)
    paths = {
        (name, seed): folder
        / joblib.hash((prefix, spell_out(dict(case), page, {}), seed))
        for name, case in cases.items()
        for seed in range(seeds)
    }
    missing = {
        path: {"seed": seed, **cases[name], **shared}
        for (name, seed), path in paths.items()
        if not path.exists()
    }
    if missing:
        jobs = [
            joblib.delayed(compute)(path, experiment, arguments)
            for path, arguments in missing.items()
        ]
        run_side_by_side(jobs)
    return {
        name: [joblib.load(paths[name, seed]) for seed in range(seeds)]
        for name in cases
    }
