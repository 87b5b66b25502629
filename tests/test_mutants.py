"""The list of survivors can be trusted: what it names is there, and argued."""

import tomllib
from collections import Counter

import mutants
import pytest


REASONS = tomllib.loads(mutants.REASONS.read_text(encoding="utf-8"))


def test_the_ground_floor_is_mutated_and_what_is_fast():
    ground = {path.stem for path in mutants.ROOT.glob("cnn/*.py")}
    upstairs = {"beyond/fast", "beyond/parallel"}
    assert mutants.MODULES.keys() == ground - {"__init__"} | upstairs


def test_each_module_has_its_own_tests():
    for module in mutants.MODULES:
        own = f"tests/test_{module.rpartition('/')[2]}.py"
        assert mutants.tests_of(module)[0] == own
        for file in mutants.tests_of(module):
            assert (mutants.ROOT / file).is_file()


def test_each_survivor_is_a_line_of_its_module_and_has_a_reason():
    for survivor in REASONS["survivor"]:
        module, change = survivor["module"], survivor["change"]
        text = (mutants.ROOT / "cnn" / f"{module}.py").read_text("utf-8")
        lines = " ".join(line.strip() for line in text.split("\n"))
        assert change.split(" -> ")[0] in lines, survivor
        assert survivor["reason"].endswith("."), survivor


@pytest.mark.parametrize(
    ("mutant", "function"),
    [
        ("cnn.relu.x_relu__mutmut_3", "relu"),
        ("cnn.relu.xǁReLUǁforward__mutmut_12", "ReLU.forward"),
        ("cnn.layer.x_copy_arrays__mutmut_1", "copy_arrays"),
    ],
)
def test_a_mutant_is_named_by_its_function(mutant, function):
    assert mutants.function_of(mutant) == function


def test_a_change_is_told_by_its_lines_alone():
    diff = "--- a.py\n+++ a.py\n@@ -1,2 +1,2 @@\n def f():\n-  x = 1\n+  x = 2"
    assert mutants.change(diff) == "x = 1 -> x = 2"


def test_only_what_was_noticed_counts():
    ended = {"killed": 5, "timeout": 1, "survived": 1, "not run": 1}
    assert mutants.score(Counter(ended)) == 0.75
