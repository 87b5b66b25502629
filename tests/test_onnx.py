"""ONNX's own test cases: whatever the package can express is equal.

`pytest tests/test_onnx.py -s` prints what it cannot, case by case.
"""

import re
from pathlib import Path

import onnx
import pytest
from onnx_nodes import OPERATIONS, load_cases, tally

import cnn
from cnn import convolution, loss, windows
from cnn.beyond import augmentation


CASES = load_cases()
TALLY = tally(CASES.values())
PAGE = Path(__file__).resolve().parents[1] / "book" / "beyond" / "library.md"

# Why the package does without each of these. No case may give another reason.
REASONS = {
    "three spatial axes": "the book is about images",
    "dilation": "no layer of the book spreads its kernel",
    "groups of channels": "each filter reads all channels",
    "sides padded differently": "padding is one number for each axis",
    "windows that reach out (ceil_mode)": "the size has a floor",
    "padded by more than half a window": "such a window holds only padding",
    "padding with other than one number": "the frame is 0, or -inf",
    "means that leave the frame out": "a convolution has equal weights",
    "a bias for each row": "a layer has a bias for each output",
    "a matrix for each image": "a layer has the same weights for all images",
    "weights of the classes": "each image counts alike",
    "log-probabilities whose sum is not 1": "the loss is taken from logits",
    "other interpolation than between four pixels": "distort needs no other",
}


def row(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def is_ours(name: str) -> bool:
    modules = (cnn, convolution, loss, windows, augmentation)
    return any(hasattr(module, name) for module in modules)


@pytest.mark.parametrize(
    "name", [*TALLY.wrong, *(n for ns in TALLY.equal.values() for n in ns)]
)
@pytest.mark.filterwarnings("error")
def test_a_case_that_can_be_expressed_is_equal(name: str) -> None:
    assert not CASES[name].difference()


def test_a_case_is_equal_or_has_its_reason() -> None:
    """None is left out in silence."""
    print(TALLY)
    assert not TALLY.wrong
    found = (TALLY.equal, TALLY.cannot, TALLY.lacking)
    names = [n for group in found for ns in group.values() for n in ns]
    assert sorted(names) == sorted(CASES)
    assert len(CASES) >= 2024
    assert sum(map(len, TALLY.equal.values())) >= 147


def test_each_operation_has_a_case() -> None:
    seen = {*TALLY.equal, *(operation for operation, _ in TALLY.cannot)}
    assert seen == set(OPERATIONS)


def test_each_reason_is_argued_and_given() -> None:
    assert {reason for _, reason in TALLY.cannot} == set(REASONS)


def test_the_page_says_what_was_counted() -> None:
    """It names the release that was counted."""
    text = PAGE.read_text(encoding="utf-8")
    (release,) = re.findall(r"ONNX (\d+\.\d+\.\d+)", text)
    if onnx.__version__ != release:
        pytest.skip(f"the page counts ONNX {release}")
    lines = dict(re.findall(r"^- `(\w+)`: (.*)$", text, re.M))
    said = ", ".join(lines[ours] for ours in lines if is_ours(ours))
    for operation in OPERATIONS:
        equal = len(TALLY.equal.get(operation, []))
        count = f"{equal} of {equal + TALLY.of(operation)}"
        assert f"{operation} {count}" in said.split(", ")
    for reason in REASONS:
        assert row(reason, TALLY.for_the(reason)) in text
    lacking = sum(map(len, TALLY.lacking.values()))
    assert row("all cases", f"{len(CASES):,}") in text
    assert row("of operations that we lack", f"{lacking:,}") in text
    for count, what in (
        (sum(map(len, TALLY.equal.values())), "equal"),
        (sum(map(len, TALLY.cannot.values())), "not to be said here"),
        (len(TALLY.wrong), "different"),
    ):
        assert row(what, count) in text
