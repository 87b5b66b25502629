"""A result is computed once, kept whole, and never taken for another's."""

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import book_dataset
import nbformat
import numpy as np
import pytest
from conftest import BROKEN_STREAMS
from nbclient import NotebookClient

import cnn
from cnn import run_experiment
from cnn.experiments.experiment import results_folder


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
        ({"x": 1}, {"y": 1}),
        ({"x": np.zeros(6)}, {"x": np.zeros((2, 3))}),
        ({"x": cnn.he_std}, {"x": cnn.xavier_std}),
    ],
)
@pytest.mark.parametrize("shared", [False, True])
def test_other_arguments_are_other_runs(log, first, second, shared):
    for given in (first, second):
        case, rest = ({}, given) if shared else (given, {})
        run_experiment(page(PLAIN), {"a": case}, seeds=1, log=log, **rest)
    assert len(runs(log)) == 2


def test_other_code_is_another_run_and_a_comment_is_not(log):
    for code in ("log, **given", "log, **given, # all\n", "log, x=1, **given"):
        source = PLAIN.replace("log, **given", code)
        run_experiment(page(source), {"a": {}}, seeds=1, log=log)
    assert len(runs(log)) == 2


def test_the_code_of_a_rule_given_as_an_argument_counts(log):
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


@pytest.mark.parametrize("seeds", [0, -1, 1.5, "5", None, [0, 1]])
def test_no_seed_is_refused(log, seeds):
    says = re.escape(f"seeds is {seeds!r}; expected at")
    with pytest.raises(ValueError, match=says):
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


@pytest.mark.parametrize("name", ["no/such/terminal", ".", "/dev/full", ""])
def test_a_terminal_that_cannot_be_opened_is_no_error(
    log, monkeypatch, capfd, name
):
    monkeypatch.setenv("CNN_TERMINAL", name)
    run_experiment(page(PLAIN), {"a": {}}, seeds=3, log=log)
    assert len(runs(log)) == 3
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "error", [PermissionError(13, "another's"), ValueError("a null byte")]
)
def test_a_terminal_of_another_user_is_no_error(log, monkeypatch, error):
    monkeypatch.setenv("CNN_TERMINAL", "/dev/another")
    given = open

    def refused(file, *options, **more):
        if file == "/dev/another":
            raise error
        return given(file, *options, **more)

    monkeypatch.setattr("builtins.open", refused)
    run_experiment(page(PLAIN), {"a": {}}, seeds=1, log=log)
    assert len(runs(log)) == 1


@pytest.mark.parametrize("stream", BROKEN_STREAMS)
def test_no_bar_ends_an_experiment(log, monkeypatch, stream):
    @contextlib.contextmanager
    def terminal():
        yield BROKEN_STREAMS[stream]()

    monkeypatch.setattr("cnn.experiments.experiment.terminal", terminal)
    monkeypatch.setattr(sys, "stderr", BROKEN_STREAMS[stream]())
    run_experiment(page(PLAIN), {"a": {}}, seeds=2, log=log)
    assert len(runs(log)) == 2


LEAVES = """
import os

def experiment(seed, log, reader):
    with open(log, "a") as file:
        print(seed, file=file)
    if seed == 1:
        os.close(reader)
"""


def test_a_terminal_that_is_closed_meanwhile_is_no_error(log, monkeypatch):
    reader, writer = pty.openpty()
    monkeypatch.setenv("CNN_TERMINAL", os.ttyname(writer))
    os.close(writer)
    given = {"log": log, "reader": reader}
    run_experiment(page(LEAVES), {"a": {}}, seeds=4, **given)
    assert len(runs(log)) == 4


def test_a_build_resolves_the_folder_where_it_was_started(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CNN_DATASET", "digits")
    monkeypatch.setenv("CNN_RESULTS", "mine")
    monkeypatch.setenv("CNN_DATA", "~/data")
    book_dataset.settle_dataset(None, None)
    assert results_folder() == tmp_path / "mine"
    assert os.environ["CNN_DATA"] == str(Path.home() / "data")


def test_the_folder_is_a_cache_unless_another_is_named(monkeypatch):
    monkeypatch.delenv("CNN_RESULTS")
    home = Path("~/.cache/cnn-from-scratch/results").expanduser()
    assert results_folder() == home
    monkeypatch.setenv("CNN_RESULTS", "~/mine")
    assert results_folder() == Path("~/mine").expanduser()
