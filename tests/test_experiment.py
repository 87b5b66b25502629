"""A result is computed once, kept whole, and never taken for another's."""

import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

import cnn
from cnn import run_experiment
from cnn.experiments import experiment as experiment_module
from cnn.experiments.experiment import package_state, results_folder


ROOT = Path(__file__).resolve().parents[1]
ENV = os.environ | {"PYTHONPATH": str(ROOT)}


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    """Results of their own, and every run in this process."""
    monkeypatch.setenv("CNN_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    monkeypatch.delenv("CNN_TERMINAL", raising=False)


@pytest.fixture
def log(tmp_path):
    """The file that each run of the pages below adds a line to."""
    return tmp_path / "log"


def page(source):
    """The function `experiment` of a page with this code."""
    names = {"__name__": "page"}
    exec(compile(textwrap.dedent(source), "<page>", "exec"), names)
    return names["experiment"]


def runs(log):
    return log.read_text().split() if log.exists() else []


PLAIN = """
def experiment(seed, log, **given):
    with open(log, "a") as file:
        print(seed, file=file)
    return seed, given
"""


# --- what is computed, and what is not -------------------------------------


def test_each_case_gets_each_seed_and_the_shared_arguments(log):
    cases = {"a": {"x": 1}, "b": {"x": 2}}
    results = run_experiment(page(PLAIN), cases, seeds=3, log=log, y=5)
    assert results == {
        "a": [(seed, {"x": 1, "y": 5}) for seed in range(3)],
        "b": [(seed, {"x": 2, "y": 5}) for seed in range(3)],
    }


def test_nothing_is_computed_again_when_nothing_has_changed(log):
    given = {"log": log, "array": np.arange(5.0)}
    first = run_experiment(page(PLAIN), {"a": {"x": 1}}, **given)
    again = run_experiment(page(PLAIN), {"renamed": {"x": 1}}, **given)
    assert len(runs(log)) == 5
    assert repr(first["a"]) == repr(again["renamed"])


def test_only_new_seeds_and_new_cases_are_computed(log):
    run_experiment(page(PLAIN), {"a": {"x": 1}}, seeds=2, log=log)
    cases = {"a": {"x": 1}, "b": {"x": 2}}
    run_experiment(page(PLAIN), cases, seeds=3, log=log)
    assert sorted(runs(log)) == ["0", "0", "1", "1", "2", "2"]


def test_equal_cases_are_computed_once(log):
    cases = {"base": {"x": 1}, "x = 1": {"x": 1}}
    results = run_experiment(page(PLAIN), cases, log=log)
    assert len(runs(log)) == 5
    assert results["base"] == results["x = 1"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"x": 1}, {"x": 2}),
        ({"x": 1}, {"x": 1.0}),
        ({"x": 1}, {"y": 1}),
        ({"x": [1, 2]}, {"x": [2, 1]}),
        ({"x": [1, 2]}, {"x": (1, 2)}),
        ({"x": np.zeros(3)}, {"x": np.array([0.0, 0.0, 1e-300])}),
        ({"x": np.zeros(3)}, {"x": np.zeros(3, np.float32)}),
        ({"x": np.zeros(6)}, {"x": np.zeros((2, 3))}),
        ({"x": {"a": np.zeros(2)}}, {"x": {"a": np.ones(2)}}),
        ({"x": cnn.he_std}, {"x": cnn.xavier_std}),
    ],
)
@pytest.mark.parametrize("shared", [False, True])
def test_other_arguments_are_other_runs(log, first, second, shared):
    for given in (first, second):
        case, rest = ({}, given) if shared else (given, {})
        run_experiment(page(PLAIN), {"a": case}, seeds=1, log=log, **rest)
    assert len(runs(log)) == 2


# Each page computes something; then one of its lines is another.
CHANGES = {
    "the experiment": ("", "return value", "return value + 1"),
    "a helper": ("def value(): return 1", "return 1", "return 2"),
    "a helper's helper": (
        "def inner(): return 1\ndef value(): return inner()",
        "return 1",
        "return 2",
    ),
    "an operator": ("def value(a, b): return a + b", "a + b", "a - b"),
    "the name of a method": (
        "def value(a): return a.min()",
        "min",
        "max",
    ),
    "the order of arguments": (
        "def value(rate, size): return rate",
        "(rate, size): return rate",
        "(size, rate): return size",
    ),
    "what a try guards": (
        "def value():\n"
        "    try: int('1'); int('x')\n"
        "    except ValueError: pass",
        "try: int('1'); int('x')",
        "int('1')\n    try: int('x')",
    ),
    "a constant": ("value = 1", "value = 1", "value = 2"),
    "a constant read by a helper": (
        "RATE = 0.1\ndef value(): return RATE",
        "0.1",
        "0.2",
    ),
    "an array": (
        "import numpy as np\nvalue = np.array([1, 2])",
        "1, 2",
        "1, 3",
    ),
    "a default": ("def value(rate=1): return rate", "rate=1", "rate=2"),
    "a default by name": (
        "def value(*, rate=1): return rate",
        "rate=1",
        "rate=2",
    ),
    "a constant as a default": (
        "RATE = 1\ndef value(rate=RATE): return rate",
        "RATE = 1",
        "RATE = 2",
    ),
    "what a closure holds": (
        "def make(n):\n    return lambda: n\nvalue = make(1)",
        "make(1)",
        "make(2)",
    ),
    "a lambda": ("value = lambda: 1", ": 1", ": 2"),
    "a function in a function": (
        "def value():\n    def inner(): return 1\n    return inner()",
        "return 1",
        "return 2",
    ),
    "a global of a comprehension": (
        "RATE = 1\ndef value(): return [RATE for _ in range(3)]",
        "RATE = 1",
        "RATE = 2",
    ),
    "a function in a table": (
        "def one(): return 1\nvalue = {'one': [one]}",
        "return 1",
        "return 2",
    ),
    "a lambda in a table, on one line": (
        "value = [lambda: 1, lambda: 2]",
        ": 2",
        ": 3",
    ),
    "the order of two in a table": (
        "def f(): return 1\ndef g(): return 2\nvalue = [f, g, f]",
        "g, f]",
        "g, g]",
    ),
    "a cached helper": (
        "from functools import cache\n@cache\ndef value(): return 1",
        "return 1",
        "return 2",
    ),
    "a decorator": (
        "from functools import wraps\n"
        "def twice(f):\n    @wraps(f)\n    def g(): return 2 * f()\n"
        "    return g\n@twice\ndef value(): return 1",
        "2 * f()",
        "3 * f()",
    ),
    "a method": ("class value:\n    def f(self): return 1", "1", "2"),
    "how an object is made": (
        "class value:\n    def __init__(self): self.rate = 1",
        "1",
        "2",
    ),
    "an attribute of a class": ("class value:\n    rate = 1", "1", "2"),
    "a property": (
        "class value:\n    @property\n    def f(self): return 1",
        "return 1",
        "return 2",
    ),
    "a static method": (
        "class value:\n    @staticmethod\n    def f(): return 1",
        "return 1",
        "return 2",
    ),
    "a base class": (
        "class Base:\n    def f(self): return 1\nclass value(Base): pass",
        "return 1",
        "return 2",
    ),
    "the class of an object": (
        "class A:\n    def f(self): return 1\n"
        "import sys; sys.modules['page'] = __import__('types')"
        ".SimpleNamespace(A=A)\nvalue = A()",
        "return 1",
        "return 2",
    ),
    "a field of a dataclass": (
        "from dataclasses import dataclass\n"
        "import sys; sys.modules['page'] = __import__('types')"
        ".SimpleNamespace()\n"
        "@dataclass\nclass value:\n    rate: float = 1.0",
        "1.0",
        "2.0",
    ),
    "another module's function": (
        "from cnn import he_std, xavier_std\nvalue = he_std",
        "value = he_std",
        "value = xavier_std",
    ),
}
READS = """
{}
def experiment(seed, log):
    with open(log, "a") as file:
        print(seed, file=file)
    if seed < 0:
        return value
    return value.__class__.__name__
"""


@pytest.mark.parametrize("name", CHANGES)
def test_other_code_is_another_run(log, name):
    code, old, new = CHANGES[name]
    first = (code or "value = 1") + READS.format("")
    assert first.count(old) >= 1
    head, _, tail = first.partition(old)
    try:
        for source in (first, first, head + new + tail):
            run_experiment(page(source), {"a": {}}, seeds=1, log=log)
    finally:
        sys.modules.pop("page", None)
    assert len(runs(log)) == 2


def test_a_rule_given_as_an_argument_is_spelled_out(log):
    source = """
    def rule():
        return 1

    def experiment(seed, log, rule):
        with open(log, "a") as file:
            print(seed, file=file)
        return rule()
    """
    found = []
    for number in (1, 1, 2):
        experiment = page(source.replace("return 1", f"return {number}"))
        case = {"rule": experiment.__globals__["rule"]}
        found += run_experiment(experiment, {"a": case}, seeds=1, log=log)["a"]
    assert found == [1, 1, 2]
    assert len(runs(log)) == 2


@pytest.mark.parametrize(
    "change",
    [
        ("value = 1", "# Why 1?\n\nvalue = 1  # because"),
        ("    if seed", "    # never\n\n    if seed"),
        ("value = 1", "other = 3\ndef unused(): return other\nvalue = 1"),
        ("log, ", "log,\n        "),
    ],
)
def test_comments_and_what_is_not_used_change_nothing(log, change):
    first = "value = 1" + READS.format("").replace("(seed, log)", "(seed,log)")
    first = first.replace("open(log, ", "open( log, ")
    second = first.replace(*change)
    assert second != first
    for source in (first, second):
        run_experiment(page(source), {"a": {}}, seeds=1, log=log)
    assert len(runs(log)) == 1


def test_code_that_has_run_ten_thousand_times_is_the_same_code():
    # Python rewrites the instructions of a busy function as it runs.
    experiment = page(
        """
        RATE = 0.5
        class Point:
            def __init__(self): self.x = 1.0
        def add(a, b): return a.x + b * RATE
        def experiment(n): return sum(add(Point(), i) for i in range(n))
        """
    )
    spelled = experiment_module.spell_out(experiment, "page", {})
    experiment(10_000)
    assert repr(experiment_module.spell_out(experiment, "page", {})) == repr(
        spelled
    )


# --- the package ------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "old", "new", "same"),
    [
        ("relu.py", '"""', '# A comment.\n"""', True),
        ("plots.py", "#0072B2", "#0072B3", True),
        ("relu.py", "> 0", ">= 0", False),
        ("experiment.py", "threadpool_limits(1)", "threadpool_limits(2)", 0),
    ],
)
def test_code_of_the_package_counts_but_no_comments_and_no_plots(
    tmp_path, monkeypatch, module, old, new, same
):
    before = package_state()
    shutil.copytree(ROOT / "cnn", tmp_path / "cnn")
    copy = tmp_path / "cnn" / module
    text = copy.read_text()
    assert old in text
    monkeypatch.setattr(cnn.experiments.experiment, "__file__", str(copy))
    assert package_state() == before
    copy.write_text(text.replace(old, new, 1))
    assert (package_state() == before) == same


def test_the_state_of_the_package_is_part_of_the_key(log, monkeypatch):
    for state in (["1"], ["1"], ["2"]):
        monkeypatch.setattr(
            experiment_module, "package_state", lambda s=state: s
        )
        run_experiment(page(PLAIN), {"a": {}}, seeds=1, log=log)
    assert len(runs(log)) == 2


# --- across processes -------------------------------------------------------

SCRIPT = """
import os
import sys
import time

import numpy as np

from cnn import run_experiment

LETTERS = {"a", "b", "c", "d"}


class Result:
    "Writing it down stops half-way when STOP says so."

    def __reduce__(self):
        if os.environ.get("STOP"):
            open(os.environ["STOP"], "w").close()
            time.sleep(60)
        return (str, ("written",))


def known(letter):
    return letter in {"d", "c", "b", "a", "e"} and letter in LETTERS


def experiment(seed, log, array):
    with open(log, "a") as file:
        print(seed, file=file)
    assert known("a")
    return [np.zeros(300_000), Result() if seed == 2 else seed]


if __name__ == "__main__":
    found = run_experiment(
        experiment, {"a": {}}, seeds=4, log=sys.argv[1],
        array=np.arange(200_000),
    )
    print([result[1] for result in found["a"]])
"""


def script(tmp_path, log, **variables):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return subprocess.Popen(
        [sys.executable, str(path), str(log)],
        env=os.environ | ENV | variables,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


EXPECTED = "[0, 1, 'written', 3]\n"


def test_another_process_finds_the_results(tmp_path, log):
    for hash_seed in "123":
        folder = str(results_folder())
        child = script(
            tmp_path, log, PYTHONHASHSEED=hash_seed, CNN_RESULTS=folder
        )
        assert child.communicate(timeout=60)[0] == EXPECTED
    assert len(runs(log)) == 4


@pytest.mark.parametrize("processors", ["1", "2"])
def test_a_kill_keeps_what_is_finished_and_no_half_result(
    tmp_path, log, processors
):
    stop, folder = tmp_path / "stop", results_folder()
    variables = {"LOKY_MAX_CPU_COUNT": processors, "CNN_RESULTS": str(folder)}
    child = script(tmp_path, log, STOP=str(stop), **variables)
    deadline = time.monotonic() + 60
    while not stop.exists():  # until the third result is half written
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.5)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    before = runs(log)
    assert before.count("2") == 1

    child = script(tmp_path, log, **variables)
    assert child.communicate(timeout=60)[0] == EXPECTED
    after = runs(log)[len(before) :]
    assert "2" in after
    assert "0" not in after
    assert "1" not in after


def test_a_result_is_on_the_disk_before_it_has_its_name(log, monkeypatch):
    done = []
    for name in ("fsync", "replace"):
        function = getattr(os, name)

        def noted(*given, name=name, function=function):
            done.append(name)
            return function(*given)

        monkeypatch.setattr(os, name, noted)
    run_experiment(page(PLAIN), {"a": {}}, seeds=1, log=log)
    assert done == ["fsync", "replace"]


# --- errors -----------------------------------------------------------------

FRAGILE = """
import os

def experiment(seed, log):
    with open(log, "a") as file:
        print(seed, file=file)
    if seed == 3 and not os.path.exists(log + ".mended"):
        raise ArithmeticError("seed 3 broke")
    return seed
"""


@pytest.mark.parametrize("processors", ["1", "2"])
def test_an_error_arrives_and_costs_no_finished_result(
    log, monkeypatch, processors
):
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", processors)
    with pytest.raises(ArithmeticError, match="seed 3 broke"):
        run_experiment(page(FRAGILE), {"a": {}}, seeds=4, log=str(log))
    log.with_name("log.mended").touch()
    before = len(runs(log))
    found = run_experiment(page(FRAGILE), {"a": {}}, seeds=4, log=str(log))
    assert found == {"a": [0, 1, 2, 3]}
    again = runs(log)[before:]
    assert "3" in again
    assert "0" not in again


def test_a_result_that_cannot_be_written_leaves_nothing(log):
    source = PLAIN.replace("return seed, given", "return open(log)")
    for _ in range(2):
        with pytest.raises(TypeError, match="pickle"):
            run_experiment(page(source), {"a": {}}, seeds=1, log=log)
    assert len(runs(log)) == 2
    assert list(results_folder().iterdir()) == []


@pytest.mark.parametrize("seeds", [0, -1])
def test_no_seed_is_refused(log, seeds):
    with pytest.raises(ValueError, match=f"seeds is {seeds}; expected at"):
        run_experiment(page(PLAIN), {"a": {}}, seeds=seeds, log=log)


# --- the same bits ----------------------------------------------------------

PRODUCT = """
import numpy as np
from threadpoolctl import threadpool_info

def experiment(seed, x):
    threads = [pool["num_threads"] for pool in threadpool_info()]
    y = (x @ x.T + seed).astype(np.float32)
    return y.tobytes(), set(threads)
"""


def test_the_same_bits_whatever_the_number_of_processors(
    tmp_path, monkeypatch
):
    x = np.random.default_rng(0).standard_normal((400, 3000))
    found = []
    for processors in ("1", "2", "3"):
        monkeypatch.setenv("LOKY_MAX_CPU_COUNT", processors)
        monkeypatch.setenv("CNN_RESULTS", str(tmp_path / processors))
        found.append(
            run_experiment(
                page(PRODUCT), {"a": {}}, seeds=3, x=x.astype(np.float32)
            )
        )
    assert found[0] == found[1] == found[2]
    assert all(threads == {1} for _, threads in found[0]["a"])


# --- where it runs ----------------------------------------------------------


def test_a_notebook_s_own_function_works_twice(tmp_path, log, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "2")
    call = "print(cnn.run_experiment(double, {'a': {}}, seeds=2, log=LOG))"
    cells = [
        f"import cnn\nLOG = {str(log)!r}",
        "FACTOR = 2\ndef times(x):\n    return FACTOR * x",
        "def double(seed, log):\n    with open(log, 'a') as file:\n"
        "        print(seed, file=file)\n    return times(seed)",
        call,
        call,
        "def times(x):\n    # said otherwise\n    return FACTOR * x",
        call,
        "def times(x):\n    return FACTOR * x + 1",
        call,
    ]
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell) for cell in cells]
    )
    client = NotebookClient(
        notebook, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    printed = ["".join(o.text for o in c.outputs) for c in notebook.cells]
    assert printed[3] == printed[4] == printed[6] == "{'a': [0, 2]}\n"
    assert printed[8] == "{'a': [1, 3]}\n"
    assert len(runs(log)) == 4


def test_a_bar_in_the_terminal_that_is_named(log, monkeypatch):
    reader, writer = pty.openpty()
    monkeypatch.setenv("CNN_TERMINAL", os.ttyname(writer))
    run_experiment(page(PLAIN), {"a": {}}, seeds=3, log=log)
    seen = b""
    while select.select([reader], [], [], 0.2)[0]:
        seen += os.read(reader, 4096)
    os.close(reader)
    os.close(writer)
    assert b"3/3" in seen


def test_without_a_terminal_there_is_no_bar(log, capfd):
    run_experiment(page(PLAIN), {"a": {}}, seeds=3, log=log)
    assert capfd.readouterr() == ("", "")


def test_the_folder_is_a_cache_unless_another_is_named(monkeypatch):
    monkeypatch.delenv("CNN_RESULTS")
    home = Path("~/.cache/cnn-from-scratch/results").expanduser()
    assert results_folder() == home
    monkeypatch.setenv("CNN_RESULTS", "~/mine")
    assert results_folder() == Path("~/mine").expanduser()
