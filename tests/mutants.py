"""Break the package in small ways, one by one: do its tests notice?

    python tests/mutants.py [--show] [relu] [linear] [beyond/fast] ...

mutmut makes each mutant: a + that becomes a -, a default that becomes another,
an argument that is left out. It runs the module's own tests against each one;
what survives them meets the other tests of the module.
A mutant that survives is a line that no test holds, or it changes nothing that
matters. The latter are in tests/survivors.toml, each with its reason; one that
is not in there is an error. So is a score below 95 %.

The work is done in copies, in _build/mutants, where an interrupted run goes
on. `[tool.mutmut]` of pyproject.toml has the settings.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import joblib


ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "_build" / "mutants"
REASONS = ROOT / "tests" / "survivors.toml"
SCORE = 0.95

# Each module, and what tests it besides its own file.
MODULES = {
    "layer": ["contracts", "network"],
    "gradient_check": ["contracts", "words"],
    "linear": ["contracts", "layer"],
    "relu": ["contracts", "layer", "nonfinite"],
    "windows": ["contracts", "convolution", "max_pooling"],
    "convolution": ["contracts", "layer"],
    "max_pooling": ["contracts", "layer", "nonfinite"],
    "loss": ["contracts", "nonfinite"],
    "initialization": ["contracts"],
    "optimizer": ["pairs", "contracts"],
    "network": ["pairs", "contracts", "layer", "words"],
    "metrics": ["contracts"],
    "training": ["pairs", "contracts", "words"],
    "data": ["contracts", "words"],
    "beyond/fast": ["contracts", "nonfinite"],
    "beyond/parallel": ["pairs", "contracts"],
}

# What mutmut's exit codes say; all others, that something went wrong.
KINDS = {0: "survived", 1: "killed", 3: "killed", 36: "timeout"}
KINDS |= {-11: "killed"}  # and the process with it
KINDS |= {-24: "timeout", 24: "timeout", 152: "timeout"}
KINDS |= {33: "no test", 5: "no test", None: "not run"}
MISSED = ("survived", "no test")
NOTICED = ("killed", "timeout")  # one that never ends is noticed, too

SHOW = """
import json, sys
from mutmut.mutation.diff_apply import get_diff_for_mutant
path = sys.argv[1]
names = json.load(sys.stdin)
print(json.dumps([get_diff_for_mutant(name, path=path) for name in names]))
"""


def tests_of(module: str) -> list[str]:
    """The test files that are run against a module's mutants."""
    names = [Path(module).name, *MODULES[module]]
    return [f"tests/test_{name}.py" for name in names]


def copy(module: str) -> Path:
    """A folder with all that is needed to test the module's mutants."""
    place = WORK / module.replace("/", "-")
    place.mkdir(parents=True, exist_ok=True)
    for folder in ("cnn", "tests", "book"):
        # Equal times let mutmut see which files have changed.
        done = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard", folder],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        )
        for name in done.stdout.split("\n"):
            if name.endswith((".py", ".md", ".toml")):
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, place / name)
    return place


def attack(place: Path, module: str, files: list[str]) -> dict[str, int]:
    """How each mutant ends that these test files have not noticed yet."""
    chosen = [
        "[tool.mutmut]",
        f'only_mutate = ["cnn/{module}.py"]',
        f"pytest_add_cli_args_test_selection = {files}",
    ]
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    settings = settings.replace("[tool.mutmut]", "\n".join(chosen))
    (place / "pyproject.toml").write_text(settings, encoding="utf-8")
    meta = place / "mutants" / "cnn" / f"{module}.py.meta"
    if meta.exists():  # the tests are others, or better by now
        state = json.loads(meta.read_text(encoding="utf-8"))
        for name, code in state["exit_code_by_key"].items():
            if KINDS.get(code) not in NOTICED:
                state["exit_code_by_key"][name] = None
        meta.write_text(json.dumps(state), encoding="utf-8")
        (place / "mutants" / "mutmut-stats.json").unlink(missing_ok=True)
    environment = os.environ | {
        "HYPOTHESIS_PROFILE": "mutants",
        "CNN_DATASET": "digits",
        "PYTHONPATH": "",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # a mutant takes 0.1 s
    }
    cores = str(joblib.cpu_count())
    with open(place / "log", "a", encoding="utf-8") as log:
        done = subprocess.run(
            [sys.executable, "-m", "mutmut", "run", "--max-children", cores],
            cwd=place,
            env=environment,
            stdout=log,
            stderr=log,
            check=False,
        )
    if done.returncode:
        sys.exit(f"mutmut failed at {module}: see {place / 'log'}")
    state = json.loads(meta.read_text(encoding="utf-8"))
    ends: dict[str, int] = state["exit_code_by_key"]
    return ends


def run(module: str) -> tuple[Counter[str], list[dict[str, str]]]:
    """Test all mutants; how many ended how, and those that survived."""
    place = copy(module)
    own, *others = tests_of(module)
    ends = attack(place, module, [own])
    if others and any(KINDS.get(end) in MISSED for end in ends.values()):
        ends = attack(place, module, others)
    ended = Counter(KINDS.get(code, "other") for code in ends.values())
    alive = [n for n in ends if KINDS.get(ends[n]) not in NOTICED]
    shown = subprocess.run(
        [sys.executable, "-c", SHOW, f"cnn/{module}.py"],
        cwd=place,
        input=json.dumps(alive),
        check=True,
        capture_output=True,
        text=True,
    )
    diffs = json.loads(shown.stdout)
    return ended, [
        {
            "module": module,
            "function": function_of(name),
            "change": change(diff),
        }
        for name, diff in zip(alive, diffs, strict=True)
    ]


def score(ended: Counter[str]) -> float:
    """The share that was noticed."""
    return sum(ended[kind] for kind in NOTICED) / max(1, ended.total())


def function_of(mutant: str) -> str:
    """'cnn.relu.xǁReLUǁforward__mutmut_3' -> 'ReLU.forward'."""
    name = mutant.rpartition(".")[2].rpartition("__mutmut_")[0]
    return name.removeprefix("x_").removeprefix("xǁ").replace("ǁ", ".")


def change(diff: str) -> str:
    """The lines that a mutant takes away, an arrow, and what it has there."""
    lines = diff.split("\n")[2:]
    old = [line[1:].strip() for line in lines if line.startswith("-")]
    new = [line[1:].strip() for line in lines if line.startswith("+")]
    return f"{' '.join(old)} -> {' '.join(new)}"


def main() -> None:
    """Run the modules that are named, or all; say what is not argued."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("modules", nargs="*", metavar="module")
    parser.add_argument("--show", action="store_true", help="all survivors")
    given = parser.parse_args()
    if unknown := set(given.modules) - MODULES.keys():
        parser.error(f"{sorted(unknown)}; expected some of {[*MODULES]}")
    reasons = tomllib.loads(REASONS.read_text(encoding="utf-8"))["survivor"]
    argued = {tuple(r[k] for k in ("module", "function", "change")): r
              for r in reasons}  # fmt: skip
    total: Counter[str] = Counter()
    failed = False
    for module in given.modules or MODULES:
        ended, alive = run(module)
        total += ended
        found = {tuple(survivor.values()) for survivor in alive}
        mine = {key for key in argued if key[0] == module}
        print(
            f"{module}: {score(ended):.1%} of {ended.total()}, {dict(ended)}"
        )
        for _, function, what in sorted(found - mine):
            failed = True
            print(f"  NEW {function}: {what}")
        for _, function, what in sorted(mine - found):
            print(f"  dead by now, strike it out: {function}: {what}")
        if given.show:
            for key in sorted(found & mine):
                print(f"  {key[1]}: {key[2]}\n    {argued[key]['reason']}")
    print(f"all: {score(total):.1%} of {total.total()}, {dict(total)}")
    sys.exit(failed or score(total) < SCORE)


if __name__ == "__main__":
    main()
