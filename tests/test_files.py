"""Where images come from: the download, its files, the name, three splits."""

import errno
import gzip
import itertools
import os
import re
import shutil
import subprocess
import sys
import time
import warnings
import zlib
from collections.abc import Callable
from http.client import IncompleteRead
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import numpy as np
import pytest
from conftest import in_order

from cnn.back import files
from cnn.back.files import (
    FILES,
    FOLDERS,
    data_root,
    download,
    load_dataset,
    read_digits,
    read_pixels,
    resolve_dataset,
)
from cnn.data import split


# A folder with the real MNIST, where there is one.
REAL = os.environ.get("CNN_DATA")
DOWNLOAD = "torchvision.datasets.MNIST.download"


def idx(array: np.ndarray) -> bytes:
    """An array of bytes as an IDX file: its format, then the bytes."""
    sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def write_mnist(
    root: Path, folder: str = "MNIST", train: int = 40, test: int = 10
) -> dict[str, np.ndarray]:
    """A tiny MNIST under root; returns its four arrays by file name."""
    rng = np.random.default_rng(0)
    raw = root / folder / "raw"
    raw.mkdir(parents=True)
    arrays = {}
    for file, count in zip(FILES, (train, train, test, test), strict=True):
        shape = (count, 28, 28) if "images" in file else (count,)
        top = 256 if "images" in file else 10
        arrays[file] = rng.integers(0, top, shape).astype(np.uint8)
        (raw / file).write_bytes(idx(arrays[file]))
    return arrays


def is_on_disk(name: str, root: Path) -> bool:
    raw = root / FOLDERS[name] / "raw"
    return all((raw / file).is_file() for file in FILES)


def files_under(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here depends on what the machine has chosen."""
    monkeypatch.delenv("CNN_DATA", raising=False)
    monkeypatch.delenv("CNN_DATASET", raising=False)


@pytest.fixture
def few_validate(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"mnist": 8, "fashion-mnist": 8, "digits": 180}
    monkeypatch.setattr(files, "VALIDATION_SIZE", sizes)


# The reader.


def test_torchvision_reads_what_was_written(tmp_path):
    arrays = write_mnist(tmp_path)
    (pixels, labels), (test_pixels, test_labels) = read_pixels(
        "mnist", tmp_path
    )
    for got, file in zip(
        (pixels, labels, test_pixels, test_labels), FILES, strict=True
    ):
        assert np.array_equal(got, arrays[file])
    assert pixels.dtype == np.uint8


def test_load_deals_and_scales_by_the_training_set(tmp_path, few_validate):
    arrays = write_mnist(tmp_path)
    train, validation, test = load_dataset("mnist", tmp_path)
    assert [len(train), len(validation), len(test)] == [32, 8, 10]
    keep, _ = split(40, 8)
    pixels = arrays[FILES[0]][keep].astype(float)
    assert train.mean == pytest.approx(pixels.mean(), rel=1e-12)
    assert train.std == pytest.approx(pixels.std(), rel=1e-12)
    expected = (arrays[FILES[2]] - pixels.mean()) / pixels.std()
    assert np.allclose(test.images[:, 0], expected, atol=1e-6)
    assert np.array_equal(test.labels, arrays[FILES[3]])
    assert np.array_equal(train.labels, arrays[FILES[1]][keep])
    for each in (train, validation, test):
        assert each.name == "mnist"
        assert each.class_names == tuple("0123456789")
        assert (each.mean, each.std) == (train.mean, train.std)
        assert each.images.shape == (len(each), 1, 28, 28)
        assert each.images.dtype == np.float32
        assert each.labels.dtype == np.int64


def test_fashion_mnist_has_its_own_folder_and_names(tmp_path, few_validate):
    write_mnist(tmp_path, "FashionMNIST")
    train, _, _ = load_dataset("fashion-mnist", tmp_path)
    assert train.class_names[1] == "Trouser"
    assert len(train.class_names) == 10
    assert not is_on_disk("mnist", tmp_path)


# What is found in the place of a file: how it is made from the right content,
# and what the error says of it.
PAGE = b"\n<!DOCTYPE html>\n<html><body>404 Not Found</body></html>\n" * 99
HARMS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda whole: b"", "damaged, cut short"),
    "cut in its first number": (lambda whole: whole[:3], "damaged, cut short"),
    "cut in its header": (lambda whole: whole[:6], "damaged, cut short"),
    "cut behind its header": (lambda whole: whole[:8], "damaged, cut short"),
    "cut in the middle": (lambda whole: whole[:100], "damaged, cut short"),
    "cut by a byte": (lambda whole: whole[:-1], "damaged, cut short"),
    "a byte too much": (lambda whole: whole + b"\0", "damaged, cut short"),
    "a web page": (lambda whole: PAGE, "a web page"),
    "still packed": (gzip.compress, r"still packed, a \.gz file"),
    "an archive": (lambda whole: b"PK\3\4" + whole, r"packed, a \.zip file"),
    "of shorts": (lambda whole: whole[:2] + b"\x0b" + whole[3:], "damaged"),
    "a sentence": (lambda whole: b"see the other folder", "damaged"),
}


def read(name: str, root: Path) -> list[np.ndarray]:
    """The four arrays of a data set."""
    return [array for pair in read_pixels(name, root) for array in pair]


def whole_again(
    name: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the error advises: delete the folder, and load again."""
    shutil.rmtree(root / FOLDERS[name] / "raw")
    expected: list[np.ndarray] = []

    def download(dataset) -> None:
        arrays = write_mnist(Path(dataset.root), FOLDERS[name])
        expected.extend(arrays.values())

    monkeypatch.setattr(DOWNLOAD, download)
    for got, array in zip(read(name, root), expected, strict=True):
        assert np.array_equal(got, array)


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("harm", HARMS)
def test_a_file_of_other_content_is_named(
    tmp_path, monkeypatch, name, file, harm
):
    arrays = write_mnist(tmp_path, FOLDERS[name], train=200, test=200)
    path = tmp_path / FOLDERS[name] / "raw" / file
    make, what = HARMS[harm]
    whole = path.read_bytes()
    content = make(whole)
    path.write_bytes(content)
    kind = "images" if "images" in file else "labels"
    with pytest.raises(
        ValueError, match=re.escape(f"{path} is ") + f".*{what}"
    ) as error:
        read_pixels(name, tmp_path)
    said = str(error.value)
    assert f"It begins with {content[:24]!r}" in said
    assert f"Expected the {kind}, unpacked" in said
    assert path.read_bytes() == content  # nothing is lost
    assert "Put the right file there, or delete its folder" in said
    path.write_bytes(whole)
    assert np.array_equal(
        read(name, tmp_path)[FILES.index(file)], arrays[file]
    )
    whole_again(name, tmp_path, monkeypatch)


@pytest.mark.parametrize("file", FILES)
def test_no_byte_of_a_header_changes_unseen(tmp_path, file):
    write_mnist(tmp_path)
    path = tmp_path / "MNIST" / "raw" / file
    whole = path.read_bytes()
    for place in range(16 if "images" in file else 8):
        for bit in range(8):
            content = bytearray(whole)
            content[place] ^= 1 << bit
            path.write_bytes(content)
            with pytest.raises(ValueError, match=re.escape(f"{path} is ")):
                read_pixels("mnist", tmp_path)


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize(("one", "other"), [*itertools.combinations(FILES, 2)])
def test_two_files_that_are_swapped_are_noticed(
    tmp_path, monkeypatch, name, one, other
):
    write_mnist(tmp_path, FOLDERS[name])
    raw = tmp_path / FOLDERS[name] / "raw"
    (raw / one).rename(raw / "aside")
    (raw / other).rename(raw / one)
    (raw / "aside").rename(raw / other)
    # The images of the training set for those of the test set: too many.
    named = str(raw) if one[-12:] == other[-12:] else str(raw / one)
    with pytest.raises(ValueError, match=re.escape(named)) as error:
        read_pixels(name, tmp_path)
    assert "folder and load again" in str(error.value)
    whole_again(name, tmp_path, monkeypatch)


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize(
    ("file", "array", "says"),
    [
        (0, np.zeros((39, 28, 28)), r"\(39, 28, 28\), 40 labels"),
        (1, np.zeros(39), r"\(40, 28, 28\), 39 labels"),
        (1, np.full(40, 10), "40 labels up to 10"),
        (2, np.zeros((10, 14, 14)), r"\(10, 14, 14\), 10 labels"),
        (3, np.full(10, 255), "10 labels up to 255"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(
    tmp_path, monkeypatch, name, file, array, says
):
    write_mnist(tmp_path, FOLDERS[name])
    path = tmp_path / FOLDERS[name] / "raw" / FILES[file]
    path.write_bytes(idx(array.astype(np.uint8)))
    with pytest.raises(ValueError, match=f"do not belong together.*{says}"):
        read_pixels(name, tmp_path)
    whole_again(name, tmp_path, monkeypatch)


# What people have in the folder under another name, and how it is mended.
def unpack(there: Path, path: Path) -> None:
    path.write_bytes(gzip.decompress(there.read_bytes()))


OTHER_NAMES: dict[str, tuple[Callable[[str], str], Any]] = {
    "a dot": (lambda file: file.replace("-idx", ".idx"), Path.rename),
    "an ending": (lambda file: f"{file}.bin", Path.rename),
    "packed": (lambda file: f"{file}.gz", unpack),
    "a folder": (lambda file: f"{file}.d/{file}", Path.rename),
}


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("wrong", [(file,) for file in FILES] + [FILES])
@pytest.mark.parametrize("how", OTHER_NAMES)
def test_a_file_of_another_name_is_named_and_so_is_the_missing_one(
    tmp_path, monkeypatch, name, wrong, how
):
    arrays = write_mnist(tmp_path, FOLDERS[name])
    raw = tmp_path / FOLDERS[name] / "raw"
    other, mend = OTHER_NAMES[how]
    for file in wrong:
        there = raw / other(file)
        there.parent.mkdir(exist_ok=True)
        if how == "packed":
            there.write_bytes(gzip.compress((raw / file).read_bytes()))
            (raw / file).unlink()
        else:
            (raw / file).rename(there)
    monkeypatch.setattr(DOWNLOAD, refused)
    before = files_under(tmp_path)
    with pytest.raises(ValueError, match="could not be downloaded") as error:
        load_dataset(name, tmp_path)
    said = str(error.value)
    missing, there = said.split("Missing: ")[1].split(". There: ")
    assert missing.split(", ") == list(wrong)
    assert all(other(file).split("/")[0] in there for file in wrong)
    assert "rename or unpack what fits" in there
    assert files_under(tmp_path) == before
    for file in wrong:
        mend(raw / other(file), raw / file)
    for got, array in zip(read(name, tmp_path), arrays.values(), strict=True):
        assert np.array_equal(got, array)


def test_nothing_there_is_not_to_be_renamed(tmp_path, monkeypatch):
    monkeypatch.setattr(DOWNLOAD, refused)
    with pytest.raises(ValueError, match=r"idx1-ubyte\. Put there") as error:
        download("mnist", tmp_path)
    assert "rename" not in str(error.value)


def test_too_few_images_to_lay_some_aside(tmp_path):
    write_mnist(tmp_path)
    with pytest.raises(ValueError, match=r"5000 of 40 images.*whole data"):
        load_dataset("mnist", tmp_path)


# The download.


def refused(dataset) -> None:
    raise HTTPError("http://a-mirror", 403, "Forbidden", None, None)


def every_mirror_failed(dataset) -> None:
    raise RuntimeError("Error downloading: 503 Service Unavailable")


def cut_off(dataset) -> None:
    os.makedirs(dataset.raw_folder)
    Path(dataset.raw_folder, FILES[0]).write_bytes(b"half")
    raise IncompleteRead(b"half", 1000)


def three_files_only(dataset) -> None:
    write_mnist(Path(dataset.root))
    Path(dataset.raw_folder, FILES[3]).unlink()


def broken_reply(dataset) -> None:
    raise zlib.error("Error -3 while decompressing data")


def no_disk(dataset) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    "failure",
    [
        *(refused, every_mirror_failed, cut_off, three_files_only),
        *(broken_reply, no_disk),
    ],
)
def test_failed_download_leaves_nothing(tmp_path, monkeypatch, failure):
    monkeypatch.setattr(DOWNLOAD, failure)
    with pytest.raises(
        ValueError,
        match=in_order(
            *("could not be downloaded", "Expected its four files"),
            *(tmp_path / "MNIST" / "raw", "set CNN_DATA", "'digits'"),
        ),
    ):
        load_dataset("mnist", tmp_path)
    assert files_under(tmp_path) == []
    assert not is_on_disk("mnist", tmp_path)


def test_interrupted_download_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(dataset) -> None:
        write_mnist(Path(dataset.root))
        raise KeyboardInterrupt

    monkeypatch.setattr(DOWNLOAD, interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_dataset("mnist", tmp_path)
    assert files_under(tmp_path) == []


def test_killed_download_is_not_trusted_and_the_next_one_works(
    tmp_path, monkeypatch, few_validate
):
    """A kill that nothing can clean up after, half-way through a file."""
    script = f"""
import time
from pathlib import Path
import torchvision
from cnn.back.files import FILES, download

def half(dataset):
    raw = Path(dataset.raw_folder)
    raw.mkdir(parents=True)
    for file in FILES:
        (raw / file).write_bytes(b"half")
    print("half-way", flush=True)
    time.sleep(100)

torchvision.datasets.MNIST.download = half
download("mnist", {str(tmp_path)!r})
"""
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "half-way\n"
    child.kill()
    child.wait()
    child.stdout.close()
    assert len(files_under(tmp_path)) == 4  # beside the place, not in it
    assert not is_on_disk("mnist", tmp_path)

    monkeypatch.setattr(DOWNLOAD, lambda d: write_mnist(Path(d.root)) and None)
    train, _, _ = load_dataset("mnist", tmp_path)
    assert len(train) == 32
    assert is_on_disk("mnist", tmp_path)

    # And what is whole is not downloaded again.
    monkeypatch.setattr(DOWNLOAD, refused)
    assert len(load_dataset("mnist", tmp_path)[0]) == 32


def test_files_are_moved_in_and_not_copied(tmp_path, monkeypatch):
    """A copy can be cut off in the middle; a rename cannot."""
    inodes = {}

    def whole(dataset) -> None:
        write_mnist(Path(dataset.root))
        for file in FILES:
            inodes[file] = Path(dataset.raw_folder, file).stat().st_ino

    monkeypatch.setattr(DOWNLOAD, whole)
    download("mnist", tmp_path)
    raw = tmp_path / "MNIST" / "raw"
    assert {file: (raw / file).stat().st_ino for file in FILES} == inodes


def test_half_of_the_files_are_not_a_data_set(tmp_path):
    write_mnist(tmp_path)
    assert is_on_disk("mnist", tmp_path)
    (tmp_path / "MNIST" / "raw" / FILES[3]).unlink()
    assert not is_on_disk("mnist", tmp_path)


def test_download_waits_only_so_long(tmp_path, monkeypatch):
    """A silent server is given up, and the caller's patience comes back."""
    import socket

    silent = socket.create_server(("127.0.0.1", 0))
    port = silent.getsockname()[1]
    found = []

    def download_from_silence(dataset) -> None:
        found.append(socket.getdefaulttimeout())
        socket.setdefaulttimeout(0.1)  # the test's patience is shorter
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.recv(1)

    monkeypatch.setattr(DOWNLOAD, download_from_silence)
    before = socket.getdefaulttimeout()
    start = time.monotonic()
    with silent, pytest.raises(ValueError, match="timed out"):
        download("mnist", tmp_path)
    assert found[0] is not None
    assert found[0] <= 60
    assert time.monotonic() - start < 60  # it did not hang
    assert socket.getdefaulttimeout() == before


# A library that is missing or broken.


def break_library(
    monkeypatch: pytest.MonkeyPatch, library: str, error: Exception
) -> None:
    """From now on, importing a library raises an error."""

    class Broken:
        """Finds the library, and fails when it is to be executed."""

        @classmethod
        def find_spec(cls, name: str, *_: object) -> ModuleSpec | None:
            found = name.partition(".")[0] == library
            return ModuleSpec(name, cls) if found else None  # type: ignore

        @staticmethod
        def create_module(spec: ModuleSpec) -> None:
            return None

        @staticmethod
        def exec_module(module: object) -> None:
            raise error

    for module in [*sys.modules]:
        if module.partition(".")[0] == library:
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "meta_path", [Broken, *sys.meta_path])


BROKEN = [
    ModuleNotFoundError("No module named 'torchvision'"),
    ImportError("cannot import name 'x'"),
    RuntimeError("operator torchvision::nms does not exist"),
    OSError("libcudart.so: cannot open shared object file"),
    AttributeError("partially initialized module 'torchvision'"),
    ValueError("numpy.dtype size changed"),
    SyntaxError("invalid syntax"),
]


@pytest.mark.parametrize("error", BROKEN, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize(
    ("name", "library", "other"),
    [
        ("mnist", "torchvision", "digits"),
        ("fashion-mnist", "torchvision", "digits"),
        ("digits", "sklearn", "mnist"),
    ],
)
def test_a_missing_or_broken_library_is_named(
    tmp_path, monkeypatch, few_validate, error, name, library, other
):
    for folder in FOLDERS.values():
        write_mnist(tmp_path, folder)  # the files are there
    break_library(monkeypatch, library, error)
    for function in (load_dataset, read_pixels):
        with pytest.raises(
            ValueError, match=rf"{library}.*cannot be imported.*Install"
        ) as caught:
            function(name, tmp_path)
        assert repr(error) in str(caught.value)
        assert f"'{other}'" in str(caught.value) or other == "mnist"
    assert load_dataset(other, tmp_path)[0].name == other


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("error", BROKEN, ids=lambda e: type(e).__name__)
def test_auto_takes_the_digits_where_torchvision_is_broken(
    tmp_path, monkeypatch, error, there
):
    if there:
        write_mnist(tmp_path)
    break_library(monkeypatch, "torchvision", error)
    with pytest.warns(UserWarning, match="using 'digits' instead") as caught:
        train, _, _ = load_dataset("auto", tmp_path)
    assert train.name == "digits"
    assert len(caught) == 1
    assert repr(error) in str(caught[0].message)


# The name.


def test_unknown_name():
    with pytest.raises(
        ValueError, match="'mnits'; expected 'auto', 'digits', 'mnist'"
    ):
        load_dataset("mnits")


def test_unknown_name_in_the_environment(monkeypatch):
    monkeypatch.setenv("CNN_DATASET", "cifar")
    with pytest.raises(ValueError, match=r"'cifar'.*CNN_DATASET"):
        resolve_dataset()


def test_auto_prefers_mnist_on_disk(tmp_path, monkeypatch):
    write_mnist(tmp_path)
    monkeypatch.setattr(DOWNLOAD, refused)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resolve_dataset("auto", tmp_path) == "mnist"


def test_auto_downloads_mnist(tmp_path, monkeypatch):
    monkeypatch.setattr(DOWNLOAD, lambda d: write_mnist(Path(d.root)) and None)
    assert resolve_dataset("auto", tmp_path) == "mnist"
    assert is_on_disk("mnist", tmp_path)


@pytest.mark.parametrize("failure", [refused, cut_off])
def test_auto_falls_back_with_a_warning(tmp_path, monkeypatch, failure):
    monkeypatch.setattr(DOWNLOAD, failure)
    with pytest.warns(UserWarning, match="using 'digits' instead") as caught:
        train, _, _ = load_dataset("auto", tmp_path)
    assert train.name == "digits"
    assert len(caught) == 1
    assert "mnist could not be downloaded" in str(caught[0].message)


def test_auto_does_not_fall_back_from_damage(tmp_path):
    """A damaged file is an error: the data must never change in silence."""
    write_mnist(tmp_path)
    (tmp_path / "MNIST" / "raw" / FILES[0]).write_bytes(b"\0")
    with pytest.raises(ValueError, match="damaged"):
        load_dataset("auto", tmp_path)


def test_environment_chooses_for_auto_alone(tmp_path, monkeypatch):
    write_mnist(tmp_path)
    monkeypatch.setenv("CNN_DATASET", "digits")
    assert resolve_dataset("auto", tmp_path) == "digits"
    assert resolve_dataset("mnist", tmp_path) == "mnist"
    monkeypatch.setenv("CNN_DATASET", "")
    assert resolve_dataset("auto", tmp_path) == "mnist"


@pytest.mark.parametrize("root", [3, b"folder", ["folder"], "~nobody9/x"])
def test_a_root_that_is_no_path(root):
    with pytest.raises(
        ValueError, match=r"Expected a path.*CNN_DATA"
    ) as error:
        load_dataset("mnist", root)
    assert repr(root) in str(error.value)


@pytest.mark.parametrize("name", [None, 3, "", ["mnist"], "MNIST"])
def test_a_name_of_another_kind(name):
    with pytest.raises(ValueError, match=r"unknown data set.*expected 'auto'"):
        load_dataset(name)


def test_root_is_argument_then_environment_then_cache(monkeypatch):
    assert data_root() == Path.home() / ".cache" / "cnn-from-scratch"
    monkeypatch.setenv("CNN_DATA", "~/elsewhere")
    assert data_root() == Path.home() / "elsewhere"
    assert data_root("/given") == Path("/given")


# The splits.


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    (train, train_labels), (test, test_labels) = read_digits()
    assert (len(train), len(test)) == (1437, 360)
    dealt = np.concatenate([train, test]).reshape(-1, 64)
    dealt_labels = np.concatenate([train_labels, test_labels])
    # The same rows, pixels and label together, in another order.
    rows = np.column_stack([pixels, labels])
    dealt_rows = np.column_stack([dealt, dealt_labels])
    assert sorted(map(tuple, rows)) == sorted(map(tuple, dealt_rows))


def test_the_test_set_never_changes():
    """Another would put yesterday's test images among the training."""
    (_, labels), (_, test_labels) = read_digits()
    assert labels[:10].tolist() == FIRST_TRAIN
    assert test_labels[:10].tolist() == FIRST_TEST


FIRST_TRAIN = [4, 9, 5, 8, 5, 3, 3, 9, 7, 1]
FIRST_TEST = [6, 6, 6, 2, 5, 6, 6, 2, 2, 1]


def test_digits_load():
    train, validation, test = load_dataset("digits")
    assert [len(train), len(validation), len(test)] == [1257, 180, 360]
    assert train.images.shape[1:] == (1, 8, 8)
    assert abs(float(train.images.mean(dtype=float))) < 1e-6
    assert abs(float(train.images.std(dtype=float)) - 1) < 1e-6
    # By the training set's statistics, hence not exactly 0 and 1.
    assert abs(float(test.images.mean(dtype=float))) > 1e-4
    again = load_dataset("digits")[0]
    assert np.array_equal(train.images, again.images)


@pytest.mark.skipif(
    not REAL or not is_on_disk("mnist", REAL),
    reason="CNN_DATA does not name a folder that has MNIST",
)
def test_real_mnist():
    train, validation, test = load_dataset("mnist", REAL)
    assert [len(train), len(validation), len(test)] == [55000, 5000, 10000]
    assert test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    known = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert np.bincount(test.labels).tolist() == known
    # The mean and std that are known of the whole training file.
    assert train.mean / 255 == pytest.approx(0.1307, abs=1e-3)
    assert train.std / 255 == pytest.approx(0.3081, abs=1e-3)
