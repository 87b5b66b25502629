"""A fingerprint changes with what a result depends on, and with no more."""

import dataclasses
import os
import shutil
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import sklearn.base
import sklearn.datasets

import cnn
from cnn.back import files
from cnn.back.fingerprint import fingerprint


ROOT = Path(__file__).resolve().parents[1]


def page(source):
    """The globals of a page with this code."""
    names = {"__name__": "page"}
    exec(compile(textwrap.dedent(source), "<page>", "exec"), names)
    return names


def of(source, name="experiment"):
    """The fingerprint of a function of a page with this code."""
    return fingerprint(page(source)[name], "page")


# --- a page -----------------------------------------------------------------

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
def experiment(seed):
    return value
"""


@pytest.fixture
def _page_is_imported():
    """For pickle, which looks for the classes of objects."""
    yield
    sys.modules.pop("page", None)


@pytest.mark.usefixtures("_page_is_imported")
@pytest.mark.parametrize("name", CHANGES)
def test_other_code_has_another_fingerprint(name):
    code, old, new = CHANGES[name]
    first = READS.format(code or "value = 1")
    head, found, tail = first.partition(old)
    assert found
    assert of(first) == of(first)
    assert of(first) != of(head + new + tail)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("value = 1", "# Why 1?\n\nvalue = 1  # because"),
        ("    if seed", "    # never\n\n    if seed"),
        ("value = 1", "other = 3\ndef unused(): return other\nvalue = 1"),
        ("(seed, size)", "(\n        seed, size)"),
        ("What it does.", "What it does, said better."),
        ('        "What it does."\n', ""),
        ("is negative", "is below 0"),
        ("expected 0 or", "give 0 or"),
        ("no ' 'size", "not a ' 'size"),
        ("How.", "How, said better."),
    ],
)
def test_comments_docstrings_errors_and_what_is_not_used_do_not_count(
    old, new
):
    first = (
        textwrap.dedent(
            """
        value = 1
        def experiment(seed, size):
            "What it does."
            if seed < 0:
                raise ValueError(
                    f"{seed} is negative; expected 0 or more, given {size}"
                )
            if size is None: raise TypeError('no ' 'size')
            def inner():
                "How."
                return value
            return inner()
        """
        )
        .replace('    "What', '        "What')
        .replace('        "What', '    "What')
    )
    if old.startswith("        "):
        old = old[4:]
    assert old in first
    assert of(first) == of(first.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('kind == "a"', 'kind == "b"'),
        ('{"key"', '{"other"'),
        ('"before"', '"behind"'),
        ('"default"', '"choice"'),
        ("raise KeyError", "raise ValueError"),
        ("KeyError(kind)", "KeyError(2)"),
        ("return 'a'", "return 'b'"),
    ],
)
def test_strings_that_are_not_of_an_error_count(old, new):
    first = """
    def experiment(kind, found=[]):
        assert kind == "a"
        table = {"key": 1}
        found.append("before")
        if kind:
            kind = "default"; raise KeyError(kind)
        try:
            raise KeyError(2)
        except KeyError:
            return 'a'
    """
    assert old in first
    assert of(first) != of(first.replace(old, new))


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
    )["experiment"]
    before = fingerprint(experiment, "page")
    experiment(10_000)
    assert fingerprint(experiment, "page") == before


def test_circles_end():
    source = """
    class Node:
        def even(self, n): return n == 0 or odd(n - 1)
    def even(n): return Node().even(n)
    def odd(n): return n != 0 and even(n - 1)
    """
    assert of(source, "even") == of(source, "even")
    other = source.replace("n != 0", "n > 0")
    assert of(source, "even") != of(other, "even")


# --- values -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (1, 2),
        (1, 1.0),
        (1, True),
        (0.0, -0.0),
        ("1", 1),
        ([1, 2], [2, 1]),
        ([1, 2], (1, 2)),
        ({"a": 1}, {"b": 1}),
        ({1, 2}, {1, 3}),
        (np.zeros(3), np.array([0.0, 0.0, 1e-300])),
        (np.zeros(3), np.zeros(3, np.float32)),
        (np.zeros(6), np.zeros((2, 3))),
        ({"a": [np.zeros(2)]}, {"a": [np.ones(2)]}),
        (np.random.default_rng(0), np.random.default_rng(1)),
        (np.sin, np.cos),
        (np.float32, np.float64),
        (cnn.he_std, cnn.xavier_std),
        (cnn.ReLU, cnn.Flatten),
        (cnn.ReLU(), cnn.Flatten()),
        (cnn.MaxPool2d(2), cnn.MaxPool2d(3)),
        (partial(cnn.relu, x=1), partial(cnn.relu, x=2)),
        (partial(cnn.relu), partial(cnn.softmax)),
        (cnn.ReLU().forward, cnn.ReLU().backward),
    ],
)
def test_other_values_have_other_fingerprints(first, second):
    assert fingerprint(first, "page") == fingerprint(first, "page")
    assert fingerprint(first, "page") != fingerprint(second, "page")


def test_equal_values_have_one_fingerprint_shared_or_not():
    row, array = [1, "a"], np.arange(6.0)
    shared = {"rows": [row, row], "arrays": [array, array]}
    single = {
        "rows": [[1, "".join("a")], [1, "a"]],
        "arrays": [array, array.copy()],
    }
    assert fingerprint(shared, "page") == fingerprint(single, "page")


@pytest.mark.parametrize(
    "wrap",
    [
        "[{}]",
        "{{'a': {}}}",
        "{{{}}}",
        "partial({})",
        "staticmethod({})",
        "cache({})",
        "np.vectorize({})",
    ],
)
def test_a_function_within_a_value_counts(wrap):
    source = "from functools import *\nimport numpy as np\n"
    source += "def rule(): return 1\nvalue = " + wrap.format("rule")
    assert of(source, "value") == of(source, "value")
    assert of(source, "value") != of(source.replace("1", "2"), "value")


# --- the package ------------------------------------------------------------

TRAINING = """
import sys
import numpy as np
import cnn
from cnn.back import files
from cnn.back.fingerprint import fingerprint

def build(rng):
    return cnn.Sequential(
        cnn.Conv2d(1, 2, 3, rng=rng), cnn.ReLU(), cnn.MaxPool2d(2),
        cnn.Flatten(), cnn.Linear(18, 10, rng=rng),
    )

def experiment(seed, training, validation):
    rng = np.random.default_rng(seed)
    network = build(rng)
    optimizer = cnn.SGD(network.parameters(), lr=0.1)
    return cnn.train(
        network, optimizer, training, validation,
        epochs=1, batch_size=8, rng=rng,
    )

images = np.zeros((8, 1, 8, 8), np.float32)
labels, names = np.zeros(8, int), tuple("0123456789")
data = cnn.Dataset("toy", images, labels, names, mean=0.0, std=1.0)
print(cnn.__file__)
print(fingerprint([experiment, data], "__main__"))
"""


def in_a_process(folder, **variables):
    """The fingerprint of an experiment with the package of a folder."""
    done = subprocess.run(
        [sys.executable, "-c", TRAINING],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)} | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    file, found = done.stdout.split()
    assert Path(file).is_relative_to(folder)
    return found


@pytest.fixture(scope="module")
def untouched():
    return in_a_process(ROOT)


@pytest.mark.parametrize("hash_seed", "123")
def test_each_process_finds_the_same_fingerprint(untouched, hash_seed):
    assert in_a_process(ROOT, PYTHONHASHSEED=hash_seed) == untouched


# A module, what is replaced in it by what, and whether results stay.
EDITS = {
    "a comment": ("relu", "y = relu(x)", "y = relu(x)  # !", True),
    "a docstring": ("relu", "entry by entry", "for each entry", True),
    "the text of an error": ("layer", "Call forward", "First call", True),
    "a new function": ("relu", "", "\n\ndef other():\n    pass\n", True),
    "what only loads data": ("back/files", "load_digits", "load_wine", True),
    "how plots are drawn": ("back/plots", "#0072B2", "#0072B3", True),
    "an optimization": ("beyond/fast", "return", "return 1 and", True),
    "an operator": ("relu", "~(x <= 0)", "~(x < 0)", False),
    "a helper's helper": ("loss", ".max(", ".min(", False),
    "a default": (
        "optimizer",
        "momentum: float = 0",
        "momentum: float = 1",
        False,
    ),
    "a method": ("optimizer", "-= self.lr", "+= self.lr", False),
    "a method of a base class": (
        "layer",
        "_saved = y.shape, values",
        "_saved = y.shape, ()",
        False,
    ),
    "a check": ("optimizer", "momentum < 1", "momentum < 2", False),
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(
        ROOT / "cnn", folder / "cnn", ignore=shutil.ignore_patterns("__py*")
    )
    return folder


@pytest.mark.parametrize("name", EDITS)
def test_of_the_package_counts_what_is_reached(untouched, copy, name):
    module, old, new, same = EDITS[name]
    path = copy / f"cnn/{module}.py"
    text = path.read_text("utf-8")
    assert old in text
    try:
        path.write_text(text.replace(old, new) if old else text + new)
        assert (in_a_process(copy) == untouched) == same
    finally:
        path.write_text(text)


def test_a_new_module_changes_nothing(untouched, copy):
    (copy / "cnn/new.py").write_text("VALUE = 1\n")
    assert in_a_process(copy) == untouched


def test_what_a_page_defines_and_what_it_imports_are_the_same_code():
    source = (ROOT / "cnn/relu.py").read_text("utf-8")
    uses = "\ndef experiment(x): return relu(ReLU().forward(x))"
    defined = of(source + uses)
    assert of("from cnn.relu import ReLU, relu" + uses) == defined
    assert of(source.replace("~(x <= 0)", "~(x < 0)") + uses) != defined


def test_the_name_behind_the_dot_is_followed():
    dotted = "import cnn\ndef experiment(x): return cnn.{}(x)"
    assert of(dotted.format("relu")) != of(dotted.format("softmax"))
    source = dotted.format("ExponentialMovingAverage")  # imported when asked
    assert of(source) == of(source)


@pytest.mark.parametrize(
    "source",
    [
        "import cnn\ndef experiment(): return getattr(cnn, 'relu')",
        "import cnn\ndef experiment(): return vars(cnn)",
        "def experiment():\n    import cnn\n    return cnn.relu",
        "def experiment():\n    from cnn import relu\n    return relu",
        "def experiment():\n    import cnn.relu as r\n    return r.relu",
        "import cnn\ndef experiment(module=cnn): return module.relu",
        "import cnn\ndef experiment():\n"
        "    def inner(): return [cnn]\n    return inner",
        "import cnn.relu\nimport sys\nr = sys.modules['cnn.relu']\n"
        "def experiment(name): return vars(r)[name]",
    ],
)
def test_a_module_that_is_used_as_a_whole_is_refused(source):
    with pytest.raises(ValueError, match=r"uses all of cnn.*as in cnn\.relu"):
        of(source)


@pytest.mark.parametrize("name", sorted({*cnn.__all__} - {"load_dataset"}))
def test_all_that_the_package_offers_can_be_followed(name):
    """An experiment may use any of it; no global of it stands in the way."""
    assert len(fingerprint([getattr(cnn, name)], "page")) == 32


@pytest.mark.parametrize(
    "name", ["load_dataset", "read_pixels", "read_digits", "resolve_dataset"]
)
def test_an_experiment_that_reads_data_files_is_refused(name):
    """The same name may be other images tomorrow."""
    with pytest.raises(ValueError, match=r"reads data files.*Load the data"):
        fingerprint([getattr(files, name)], "page")


def test_the_numbers_of_the_data_count():
    images = np.zeros((3, 1, 2, 2), np.float32)
    data = cnn.Dataset("one", images, np.arange(3), ("0",) * 3, 0.0, 1.0)
    known = fingerprint([data], "page")
    assert fingerprint([dataclasses.replace(data)], "page") == known
    images = images.copy()
    images[2, 0, 1, 1] = 1
    other = dataclasses.replace(data, images=images)
    assert fingerprint([other], "page") != known
    other = dataclasses.replace(data, labels=np.array([0, 1, 1]))
    assert fingerprint([other], "page") != known


@pytest.mark.parametrize(
    "value",
    [sklearn, sklearn.datasets.load_digits, sklearn.base.BaseEstimator],
)
def test_the_version_of_a_library_that_is_named_counts(monkeypatch, value):
    known = fingerprint([value], "page")
    assert fingerprint([value], "page") == known
    monkeypatch.setattr(sklearn, "__version__", "another")
    assert fingerprint([value], "page") != known


@pytest.mark.parametrize(
    ("owner", "name"), [(sys, "version"), (np, "__version__")]
)
def test_the_versions_of_python_and_numpy_count(monkeypatch, owner, name):
    known = of("def experiment(): return 1")
    monkeypatch.setattr(owner, name, "another")
    assert of("def experiment(): return 1") != known
