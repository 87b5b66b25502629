"""Full disks, folders that refuse, kills, and two at once: nothing is lost.

Each fault is tried at every change of a file that the work makes, so a new
way of writing is covered without a new test.
"""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import book_cache
import numpy as np
import pytest
import tangle
from faults import Disk, download, experiments, full, read_only, training

from cnn.network import load_arrays, save_arrays


TESTS = Path(__file__).parent
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="it has no fork")


WORKS = [training, experiments, download]
# torchvision takes seconds to be imported by each process.
LATE = pytest.param(download, marks=pytest.mark.slow)
SOON_AND_LATE = [training, experiments, LATE]


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch):
    """What the works change in this process comes back."""
    import torchvision

    mnist = torchvision.datasets.MNIST
    monkeypatch.setattr(mnist, "download", mnist.download)
    for name in ("CNN_RESULTS", "LOKY_MAX_CPU_COUNT"):
        monkeypatch.setenv(name, "")
    monkeypatch.delenv("CNN_TERMINAL", raising=False)


def files_under(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


# --- a disk that is full -----------------------------------------------------


@pytest.mark.parametrize("for_good", [False, True])
@pytest.mark.parametrize("work", WORKS)
def test_a_disk_that_is_full_at_any_write(tmp_path, work, for_good):
    (tmp_path / "whole").mkdir()
    expected = work(tmp_path / "whole")
    whole = files_under(tmp_path / "whole")
    k, refused = 0, 0
    while refused == k:
        k += 1
        folder = tmp_path / str(k)
        folder.mkdir()
        message = ""
        try:
            with Disk(full, k, for_good=for_good):
                assert work(folder) == expected
        except (OSError, ValueError) as error:
            message, refused = str(error), refused + 1
        assert not message or "No space left on device" in message
        # What is there has its name, and is what it would have been, but
        # for a checkpoint, which may be an earlier one.
        left = files_under(folder)
        assert left.keys() <= whole.keys()
        if work is not training:
            assert left.items() <= whole.items()
        assert work(folder) == expected
    assert refused > 8


HEAD = """
import sys
from pathlib import Path

sys.path.insert(0, {tests!r})
import faults

work = getattr(faults, {work!r})
folder = Path({folder!r})
options = {options!r}
(folder / "whole").mkdir()
expected = work(folder / "whole", **options)
"""


def in_a_process(source, folder, work, *, options=None, **names):
    """Run a script by itself: it forks, or limits itself. Its output.

    It has the folder, the work, its options, and what the work is expected
    to return; names stand in its braces.
    """
    names |= {"work": work.__name__, "folder": str(folder)}
    names |= {"tests": str(TESTS), "options": options or {}}
    done = subprocess.run(
        [sys.executable, "-c", (HEAD + source).format(**names)],
        cwd=TESTS.parent,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    return done.stdout


LITTLE_ROOM = """
import resource

_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
refused = 0
for room in {rooms}:
    place = folder / str(room)
    place.mkdir()
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        assert work(place) == expected
    except (OSError, ValueError) as error:
        assert "File too large" in str(error), error
        refused += 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert work(place) == expected
print(refused)
"""


@POSIX
@pytest.mark.parametrize("work", SOON_AND_LATE)
def test_a_system_that_refuses_to_write_more(tmp_path, work):
    # Not simulated: the kernel lets no file grow beyond so many bytes.
    rooms = [0, 1, 100, 1000, 5000, 20_000, 10**9]
    refused = int(in_a_process(LITTLE_ROOM, tmp_path, work, rooms=rooms))
    assert 2 <= refused < len(rooms)


# --- a folder that refuses ---------------------------------------------------


@pytest.mark.parametrize("work", WORKS)
def test_a_folder_that_is_read_only(tmp_path, work):
    with (
        pytest.raises((OSError, ValueError), match="Read-only file system"),
        Disk(read_only, 1, for_good=True),
    ):
        work(tmp_path)
    assert files_under(tmp_path) == {}
    assert work(tmp_path)


@pytest.mark.parametrize("work", WORKS)
def test_a_folder_that_is_read_only_and_has_all(tmp_path, work):
    expected = work(tmp_path)
    with Disk(read_only, 1, for_good=True):
        assert work(tmp_path) == expected


@pytest.mark.parametrize("work", WORKS)
def test_a_file_in_the_place_of_the_folder(tmp_path, work):
    folder = tmp_path / "folder"
    folder.write_text("a file")
    with pytest.raises((OSError, ValueError), match="folder"):
        work(folder)
    assert files_under(tmp_path) == {"folder": b"a file"}


# --- kills -------------------------------------------------------------------

AT_EACH_WRITE = """
def check(place):
    assert work(place) == expected, "the next run differs"
    assert work(place) == expected, "the run after it differs"

print(faults.kill_at_each_write(work, check, folder, {buffer}))
"""


@POSIX
@pytest.mark.parametrize("work", WORKS)
def test_a_kill_at_each_write(tmp_path, work):
    killed = in_a_process(AT_EACH_WRITE, tmp_path, work, buffer=8192)
    assert int(killed) > 20


@POSIX
@pytest.mark.slow
@pytest.mark.parametrize("work", WORKS)
def test_a_kill_at_each_piece_of_each_write(tmp_path, work):
    killed = in_a_process(AT_EACH_WRITE, tmp_path, work, buffer=64)
    assert int(killed) > 20


AT_RANDOM = """
import os, random, signal, time

(folder / "again").mkdir()  # by now all is imported
start = time.monotonic()
assert work(folder / "again", **options) == expected
whole = time.monotonic() - start

draw, kills, chains = random.Random(0), 0, 0
while kills < {kills}:  # each chain of kills ends with a run that is whole
    chains += 1
    place = folder / str(chains)
    place.mkdir()
    code = -signal.SIGKILL
    while code and kills < {kills}:
        child = faults.fork(lambda: work(place, **options))
        time.sleep(draw.uniform(0, whole))
        os.kill(child, signal.SIGKILL)
        code = faults.end_of(child)
        assert code in (0, -signal.SIGKILL), code
        kills += code != 0
    assert work(place, **options) == expected, "the next run differs"
print(kills, chains)
"""


def kill_at_random(tmp_path, work, kills, **options):
    found = in_a_process(
        AT_RANDOM, tmp_path, work, options=options, kills=kills
    )
    assert int(found.split()[0]) == kills


@POSIX
@pytest.mark.parametrize("work", SOON_AND_LATE)
def test_kills_at_random_moments(tmp_path, work):
    kill_at_random(tmp_path, work, 8)


@POSIX
@pytest.mark.slow
def test_a_hundred_kills_of_a_training(tmp_path):
    kill_at_random(tmp_path, training, 100, epochs=8, patience=3)


# --- two at once -------------------------------------------------------------


def test_two_that_save_to_one_path_at_once(tmp_path, monkeypatch):
    """The second writes while the first is half done, and is done before."""
    path, fsync = tmp_path / "run.npz", os.fsync
    mine, other = {"x": np.zeros(5000)}, {"x": np.ones(9), "y": np.ones(3)}

    def meanwhile(file: int) -> None:
        monkeypatch.setattr(os, "fsync", fsync)
        save_arrays(path, other)
        assert load_arrays(path).keys() == other.keys()
        fsync(file)

    monkeypatch.setattr(os, "fsync", meanwhile)
    save_arrays(path, mine)
    np.testing.assert_array_equal(load_arrays(path)["x"], mine["x"])
    assert list(tmp_path.iterdir()) == [path]


TWO_AT_ONCE = """
def same(place):
    assert work(place) == expected

for n in range({rounds}):
    place = folder / str(n)
    place.mkdir()
    children = [faults.fork(lambda: same(place)) for _ in range(3)]
    assert [faults.end_of(child) for child in children] == [0, 0, 0]
    same(place)
    names = sorted(path.name for path in place.iterdir())
    assert names == sorted(p.name for p in (folder / "whole").iterdir())
"""


@POSIX
@pytest.mark.parametrize("work", WORKS)
def test_three_at_once_in_one_folder(tmp_path, work):
    in_a_process(TWO_AT_ONCE, tmp_path, work, rounds=2)


def test_two_that_write_one_module_at_once(tmp_path, monkeypatch):
    path, replace = tmp_path / "cnn" / "relu.py", os.replace

    def meanwhile(aside: Path, place: Path) -> None:
        monkeypatch.setattr(os, "replace", replace)
        tangle.write_file(path, b"other")
        assert path.read_bytes() == b"other"
        replace(aside, place)

    monkeypatch.setattr(os, "replace", meanwhile)
    tangle.write_file(path, b"mine")
    assert path.read_bytes() == b"mine"
    assert list(path.parent.iterdir()) == [path]


def test_two_builds_that_prune_at_once(tmp_path, monkeypatch):
    """Another build removes a cache while this one looks how old it is."""
    caches = [tmp_path / str(n) for n in range(book_cache.KEPT + 2)]
    for n, cache in enumerate(caches):
        cache.mkdir()
        os.utime(cache, (n, n))
    found = list(tmp_path.iterdir())
    monkeypatch.setattr(Path, "iterdir", lambda path: iter(found))
    caches[0].rmdir()
    config = {"nb_execution_cache_path": str(caches[-1])}
    book_cache.prune(SimpleNamespace(config=config), None)
    assert [c for c in caches if c.exists()] == caches[-book_cache.KEPT :]
