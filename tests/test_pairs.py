"""Objects that belong together are compared before they work together.

An optimizer and its network; a run and the file that it goes on from.
"""

import copy
import importlib
import inspect
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from short_training import FEW, HELD_OUT, bits, run, start
from toys import Mean, seed_network

import cnn
from cnn import SGD, Linear, ParallelStep, Parameter, cosine_schedule
from cnn.beyond.averaging import ExponentialMovingAverage
from cnn.beyond.workers import DistributedStep
from cnn.layer import Layer
from cnn.network import checksum
from cnn.training import Checkpoint, train, train_epoch, train_step


# --- an optimizer and its network -------------------------------------------

BATCH = FEW.images[:8], FEW.labels[:8]
PLAN = {"epochs": 1, "batch_size": 32}


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


# Whatever takes both, as a function of both.
BORDERS: dict[str, Callable[[Layer, SGD], Any]] = {
    "train_step": lambda n, o: train_step(n, o, *BATCH),
    "train_epoch": lambda n, o: train_epoch(n, o, FEW, 32, rng()),
    "train": lambda n, o: train(n, o, FEW, HELD_OUT, rng=rng(), **PLAN),
    "Checkpoint.__init__": lambda n, o: Checkpoint(n, o, rng()),
    "ParallelStep.__call__": lambda n, o: ParallelStep(n, workers=1)(
        n, o, *BATCH
    ),
    # It has no client, but looks before it asks for one.
    "DistributedStep.__call__": lambda n, o: DistributedStep(None, shards=1)(
        n, o, *BATCH
    ),
}


def functions() -> Iterator[tuple[str, Callable[..., Any]]]:
    """All public functions and methods of the package."""
    root = Path(cnn.__file__).parents[1]
    for path in sorted((root / "cnn").rglob("*.py")):
        place = ".".join(path.relative_to(root).with_suffix("").parts)
        module = importlib.import_module(place.removesuffix(".__init__"))
        for name, item in vars(module).items():
            if getattr(item, "__module__", "") != module.__name__:
                continue
            if "__mutmut" in name:  # a copy that tests/mutants.py has made
                continue
            if inspect.isfunction(item):
                yield name, item
            elif inspect.isclass(item):
                for method, function in vars(item).items():
                    if inspect.isfunction(function) and (
                        "__mutmut" not in method
                    ):
                        yield f"{name}.{method}", function


def test_all_that_takes_both_is_tested() -> None:
    taking = {
        name
        for name, function in functions()
        if {"network", "optimizer"}
        <= set(inspect.signature(function).parameters)
    }
    assert taking == BORDERS.keys()


def strangers(network: Layer) -> dict[str, list[Parameter]]:
    """Parameters that are not a network's, or not all."""
    older = seed_network(0, dtype=np.float32)  # the cell, run before
    return {
        "an older network's": older.parameters(),
        "a copy's": copy.deepcopy(network).parameters(),
        "one of another's": [older.parameters()[0]],
        "its own and one more": [
            *network.parameters(),
            older.parameters()[2],
        ],
    }


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("kind", strangers(seed_network()))
def test_an_optimizer_of_another_network_is_refused(
    border: str, kind: str
) -> None:
    network = seed_network(0, dtype=np.float32)
    parameters = strangers(network)[kind]
    optimizer = SGD(parameters, lr=0.1, momentum=0.9)
    before = bits(network), [p.value.copy() for p in parameters]
    others = len(set(parameters) - set(network.parameters()))
    with pytest.raises(
        ValueError,
        match=rf"moves {len(parameters)} parameters, and {others} of them",
    ) as error:
        BORDERS[border](network, optimizer)
    assert bits(network) == before[0]
    for p, value in zip(parameters, before[1], strict=True):
        assert np.array_equal(p.value, value)
    assert not any(v.any() for v in optimizer.velocities)
    # The way out.
    assert "SGD(network.parameters(), lr)" in str(error.value)
    optimizer = SGD(network.parameters(), lr=0.1)
    loss = train_step(network, optimizer, *BATCH)[0]
    for _ in range(20):
        train_step(network, optimizer, *BATCH)
    assert train_step(network, optimizer, *BATCH)[0] < 0.5 * loss


@pytest.mark.parametrize(
    "border", [b for b in BORDERS if b != "DistributedStep.__call__"]
)
@pytest.mark.parametrize("chosen", [[0], [2, 3], [3, 0], [0, 1, 2, 3]])
def test_some_of_the_parameters_are_enough(
    border: str, chosen: list[int]
) -> None:
    network = seed_network(0, dtype=np.float32)
    parameters = network.parameters()
    before = [p.value.copy() for p in parameters]
    BORDERS[border](network, SGD([parameters[i] for i in chosen], lr=0.1))
    for i, (p, value) in enumerate(zip(parameters, before, strict=True)):
        moved = i in chosen and border != "Checkpoint.__init__"
        assert np.array_equal(p.value, value) != moved


@pytest.mark.parametrize(
    "border", ["train", "train_epoch", "Checkpoint.__init__"]
)
def test_a_layer_put_in_later_is_noticed(border: str) -> None:
    """These look anew each time; a single step remembers its network."""
    network = seed_network(0, dtype=np.float32)
    optimizer = SGD(network.parameters(), lr=0.1)
    train_step(network, optimizer, *BATCH)
    head = Linear(27, 10, rng=rng()).to(np.float32)
    network.layers = (*network.layers[:-1], head)
    with pytest.raises(ValueError, match="and 2 of them are not"):
        BORDERS[border](network, optimizer)


def test_looking_costs_a_step_nothing(monkeypatch) -> None:
    looked = []
    look = SGD.check_network

    def counted(optimizer: SGD, network: Layer) -> None:
        looked.append(network)
        look(optimizer, network)

    monkeypatch.setattr(SGD, "check_network", counted)
    network = seed_network(0, dtype=np.float32)
    optimizer = SGD(network.parameters(), lr=0.1)
    step = ParallelStep(network, workers=1)
    distributed = DistributedStep(None, shards=1)
    for _ in range(3):
        train_step(network, optimizer, *BATCH)
        step(network, optimizer, *BATCH)
        with pytest.raises(AttributeError):  # it has no client
            distributed(network, optimizer, *BATCH)
    assert looked == [network]
    plan = {"epochs": 3, "batch_size": 10, "rng": rng()}
    train(network, optimizer, FEW, HELD_OUT, **plan)
    assert looked == [network] * 5  # a run, and each of its epochs


PARAMETER = Parameter(np.zeros(2))


@pytest.mark.parametrize(
    "parameters",
    [
        *([], (), {}, None, 3, PARAMETER, [np.zeros(2)], [PARAMETER, None]),
        *([PARAMETER, PARAMETER], seed_network().named_parameters()),
        *(seed_network().parameters, iter([]), seed_network()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_list_of_parameters(parameters: Any) -> None:
    with pytest.raises(
        ValueError, match=r"parameters is a .* expected a list of Parameters"
    ) as error:
        SGD(parameters, lr=0.1)
    assert type(parameters).__name__ in str(error.value)
    assert "network.parameters()" in str(error.value)


@pytest.mark.parametrize("kind", [list, tuple, iter])
def test_any_sequence_of_parameters(kind: type) -> None:
    network = seed_network(0, dtype=np.float32)
    before = bits(network)
    optimizer = SGD(kind(network.parameters()), lr=0.1)
    train_step(network, optimizer, *BATCH)
    train_step(network, optimizer, *BATCH)
    assert all(before[n] != after for n, after in bits(network).items())


# --- an average and its network ---------------------------------------------


def test_an_average_of_another_network_is_refused() -> None:
    older, network = seed_network(0), seed_network(0)
    average = ExponentialMovingAverage(older, 0.5)
    kept = copy.deepcopy(average.values)
    for other in (network, copy.deepcopy(older), Linear(2, 2, rng=rng())):
        with pytest.raises(ValueError, match=r"another network.*Make a new"):
            average.update(other)
    replaced = older.layers[0]
    older.layers = (seed_network(0).layers[0], *older.layers[1:])
    with pytest.raises(ValueError, match="another network"):
        average.update(older)
    for name, value in kept.items():
        assert np.array_equal(average.values[name], value)
    older.layers = (replaced, *older.layers[1:])
    average.update(older)
    ExponentialMovingAverage(network, 0.5).update(network)


# --- a run and its file ------------------------------------------------------


def halved(lr: float, progress: float) -> float:
    return lr / (1 + (progress > 0.4))


def halved_later(lr: float, progress: float) -> float:
    return lr / (1 + (progress > 0.6))


class Other(SGD):
    """The same, under another name."""


class Tuned(SGD):
    """With a pair of numbers, as Adam has it."""

    def __init__(self, parameters, lr, betas=(0.9, 0.99)):
        super().__init__(parameters, lr)
        self.betas = betas


def changed(images: bool, split: cnn.Dataset) -> cnn.Dataset:
    """The data with one pixel or one label changed."""
    array = (split.images if images else split.labels).copy()
    array.flat[5] = (array.flat[5] + 1) % 10
    return replace(split, **{"images" if images else "labels": array})


def go(
    path: Path,
    *,
    seed: int = 0,
    weights: int | None = None,
    lr: Any = 0.05,
    optimizer: Callable[..., SGD] = SGD,
    numbers: tuple[Any, ...] = (0.9, 1e-4),
    data: cnn.Dataset = FEW,
    held_out: cnn.Dataset = HELD_OUT,
    network: Layer | None = None,
    **options: Any,
) -> tuple[Layer, SGD, Any]:
    """A run with a checkpoint; its network, optimizer and history."""
    generator = np.random.default_rng(seed)
    drawn = generator if weights is None else np.random.default_rng(weights)
    if network is None:
        network = seed_network(drawn, 4, np.float32)
    moves = optimizer(network.parameters(), lr, *numbers)
    options = {"epochs": 2, "batch_size": 32} | options
    history = train(
        network,
        moves,
        data,
        held_out,
        rng=generator,
        checkpoint=path,
        **options,
    )
    return network, moves, history


def average_pooled() -> Layer:
    network = seed_network(0, 4, np.float32)
    network.layers = (*network.layers[:2], Pool(), *network.layers[3:])
    return network


class Pool(cnn.MaxPool2d):
    """Another layer without parameters, in the same place."""

    def __init__(self) -> None:
        super().__init__(2)


OF_STEPS = {"schedule": halved}
OF_TUNED = {"optimizer": Tuned, "numbers": ()}
# What the saved run was, what this one is, and the name of the difference.
OTHERS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "lr": ({}, {"lr": 0.1}, "mean lr"),
    "a schedule": ({}, {"schedule": halved}, "mean lr"),
    "no schedule": (OF_STEPS, {"schedule": None}, "mean lr"),
    "its place": (OF_STEPS, {"schedule": halved_later}, "mean lr"),
    "its lr": (OF_STEPS, {**OF_STEPS, "lr": 0.1}, "mean lr"),
    "momentum": ({}, {"numbers": (0.8, 1e-4)}, "momentum"),
    "decay": ({}, {"numbers": (0.9, 0)}, "weight_decay"),
    "class": ({}, {"optimizer": Other}, "optimizer"),
    "a pair": (OF_TUNED, {**OF_TUNED, "numbers": ((0.9, 0.9),)}, "betas"),
    "seed": ({}, {"seed": 1}, "seed"),
    "batch size": ({}, {"batch_size": 31}, "batch_size"),
    "fewer images": ({}, {"data": FEW.subset(slice(140))}, "training"),
    "their order": (
        {},
        {"data": FEW.subset(np.arange(150)[::-1])},
        "training",
    ),
    "a pixel": ({}, {"data": changed(True, FEW)}, "training"),
    "a label": ({}, {"data": changed(False, FEW)}, "training"),
    "a pixel held out": (
        {},
        {"held_out": changed(True, HELD_OUT)},
        "validation",
    ),
    "a label held out": (
        {},
        {"held_out": changed(False, HELD_OUT)},
        "validation",
    ),
    "a layer": ({}, {"network": average_pooled}, "layers"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_checkpoint_of_another_run_is_refused(
    tmp_path: Path, other: str
) -> None:
    saved, given, name = OTHERS[other]
    given = {
        key: value() if key == "network" else value
        for key, value in (saved | given).items()
    }
    path = tmp_path / "run.npz"
    _, _, history = go(path, **saved)
    kept = path.read_bytes()
    with pytest.raises(
        ValueError, match=r"run\.npz holds another run: .*Expected this one"
    ) as error:
        go(path, **given)
    said = str(error.value)
    told = said.split("another run: ")[1].split(". Expected")[0].split("; ")
    assert [each.split(" is ")[0] for each in told] == [name]
    assert path.read_bytes() == kept
    assert list(tmp_path.iterdir()) == [path]
    # The ways out: make them equal, ...
    assert go(path, weights=7, **saved)[2] == history
    # ... or another file, ...
    own = tmp_path / "own.npz"
    assert go(own, **given | {"network": None})[2] != history or name in (
        *("optimizer", "layers"),  # which do the same here
        "betas",
    )
    # ... or go on from there in another way, on purpose.
    options = dict(saved)
    options.pop("schedule", None)
    network, moves, _ = go(path, weights=7, **saved)
    generator = np.random.default_rng(5)
    Checkpoint(network, moves, generator).load(path)
    moves.lr = 0.001
    further = train(
        *(network, moves, FEW, HELD_OUT),
        **{"epochs": 1, "batch_size": 20, "rng": generator},
        checkpoint=tmp_path / "further.npz",
    )
    assert len(further) == 1
    assert further[0].train_loss < history[0].train_loss


def test_nothing_is_changed_by_a_refusal(tmp_path: Path) -> None:
    path = tmp_path / "run.npz"
    run(checkpoint=path)
    network, optimizer, generator = start(1)
    before = bits(network), json.dumps(generator.bit_generator.state)
    with pytest.raises(ValueError, match=r"seed is \[0\], here \[1\]\. Exp"):
        train(
            *(network, optimizer, FEW, HELD_OUT),
            **{"epochs": 3, "batch_size": 32, "rng": generator},
            checkpoint=path,
        )
    assert bits(network) == before[0]
    assert json.dumps(generator.bit_generator.state) == before[1]
    assert not any(v.any() for v in optimizer.velocities)
    assert optimizer.lr == 0.05


def test_all_differences_are_named_at_once(tmp_path: Path) -> None:
    path = tmp_path / "run.npz"
    go(path)
    with pytest.raises(ValueError, match="another run") as error:
        go(
            *(path,),
            **{"lr": 0.1, "seed": 3, "batch_size": 10, "numbers": (0.5, 0)},
            data=changed(True, FEW),
        )
    for said in (
        "momentum is 0.9, here 0.5; weight_decay is 0.0001, here 0; ",
        "seed is [0], here [3]",
        "batch_size is 32, here 10",
        "training is (150, 1, 8, 8) ",
        "mean lr is [[5, 10, 0.05], [10, 10, 0.05]], "
        "here [[5, 10, 0.1], [10, 10, 0.1]]",
    ):
        assert said in str(error.value)


SAME: dict[str, dict[str, Any]] = {
    "more epochs": {"epochs": 4},
    "other weights": {"weights": 9},
    "numbers of NumPy": {"lr": np.float64(0.05), "batch_size": np.int64(32)},
    "patience": {"patience": 9, "epochs": 3},
    "a memory order": {
        "data": replace(FEW, images=np.asfortranarray(FEW.images))
    },
    "other words": {"data": replace(FEW, name="renamed")},
}


@pytest.mark.parametrize("same", SAME)
@pytest.mark.parametrize("schedule", [None, cosine_schedule])
def test_the_same_run_goes_on(
    tmp_path: Path, same: str, schedule: Any
) -> None:
    path = tmp_path / "run.npz"
    _, _, history = go(path, schedule=schedule)
    _, _, longer = go(path, schedule=schedule, **SAME[same])
    assert longer[:2] == history
    assert len(longer) == SAME[same].get("epochs", 2)
    _, _, again = go(path, schedule=schedule, epochs=len(longer) + 1)
    assert again[: len(longer)] == longer


def test_more_epochs_are_those_of_a_run_without_a_break(
    tmp_path: Path,
) -> None:
    whole, _, history = go(tmp_path / "whole.npz", epochs=4)
    for epochs in (1, 3, 4):
        network, _, found = go(tmp_path / "run.npz", epochs=epochs)
    assert found == history
    assert bits(network) == bits(whole)


def test_the_same_objects_go_on_after_an_interruption(tmp_path: Path) -> None:
    """As in a notebook: stop the cell, and run it again."""
    path = tmp_path / "run.npz"
    network, optimizer, generator = start()
    steps = iter(range(7))

    def stopped(*batch: Any) -> tuple[float, int]:
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return train_step(*batch)

    options = {"epochs": 3, "batch_size": 32, "rng": generator}
    with pytest.raises(KeyboardInterrupt):
        train(
            *(network, optimizer, FEW, HELD_OUT),
            **options,
            checkpoint=path,
            step=stopped,
        )
    train(*(network, optimizer, FEW, HELD_OUT), **options, checkpoint=path)
    whole, _, _ = run()
    assert bits(network) == bits(whole)


def test_a_step_that_shares_the_batch_goes_on(tmp_path: Path) -> None:
    """To within rounding it is the same step."""
    path = tmp_path / "run.npz"
    _, _, history = go(path)
    network = seed_network(9, 4, np.float32)
    with ParallelStep(network, workers=1) as step:
        _, _, longer = go(path, network=network, step=step, epochs=3)
    assert longer[:2] == history


def test_a_schedule_is_asked_of_the_past_alone(tmp_path: Path) -> None:
    """One that would end the run later does not end it at the start."""
    path = tmp_path / "run.npz"
    go(path, schedule=cosine_schedule, epochs=2)

    def ends(lr: float, progress: float) -> float:
        assert progress < 0.95
        return cosine_schedule(lr, progress)

    with pytest.raises(AssertionError):
        go(path, schedule=ends, epochs=4)


def test_arrays_that_are_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "run.npz"
    cnn.save_arrays(path, seed_network(0).state_dict())
    with pytest.raises(ValueError, match="another run: momentum is None, "):
        go(path)


def test_the_layers_of_a_run_are_written_as_ever(tmp_path: Path) -> None:
    """In other words, a file of an earlier version would be refused."""
    network, optimizer, generator = start()
    run = Checkpoint(network, optimizer, generator)
    said = cnn.network.describe_run(run, 32, FEW, HELD_OUT)["layers"]
    assert said == "Sequential Conv2d ReLU MaxPool2d Flatten Linear"


def test_a_checkpoint_of_before_these_were_noted(tmp_path: Path) -> None:
    path = tmp_path / "run.npz"
    go(path)
    arrays = cnn.load_arrays(path)
    state = json.loads(str(arrays["state"]))
    del state["made_of"]
    arrays["state"] = np.array(json.dumps(state))
    cnn.save_arrays(path, arrays)
    kept = Checkpoint(*start())
    for _ in range(2):
        with pytest.raises(ValueError, match=r"momentum is None, here 0\.9"):
            go(path)
        kept.load(path)
        kept.save(path)  # it does not claim to be another run


def test_a_checkpoint_that_no_training_wrote(tmp_path: Path) -> None:
    path = tmp_path / "run.npz"
    Checkpoint(*start()).save(path)
    with pytest.raises(ValueError, match=r"momentum is None, here 0\.9"):
        go(path)


def test_a_run_without_a_file_needs_no_seed() -> None:
    """Nor does it pay for sums over its images."""
    network = seed_network(0, dtype=np.float32)
    optimizer = SGD(network.parameters(), lr=0.1)
    bits: Any = np.random.MT19937()
    bits._legacy_seeding(0)
    assert bits.seed_seq is None
    rng = np.random.Generator(bits)
    train(network, optimizer, FEW, HELD_OUT, **PLAN, rng=rng)
    assert Mean is not None


@pytest.mark.parametrize("split", [FEW, HELD_OUT])
def test_a_checksum_is_of_all_numbers_and_of_nothing_else(split) -> None:
    known = checksum(split)
    assert checksum(replace(split, name="other", mean=7.0)) == known
    assert checksum(replace(split, images=split.images.copy())) == known
    spread = np.zeros((*split.images.shape, 2), np.float32)
    spread[..., 0] = split.images
    assert checksum(replace(split, images=spread[..., 0])) == known
    others = {
        checksum(changed(True, split)),
        checksum(changed(False, split)),
        checksum(replace(split, images=split.images[:, :, ::-1])),
        checksum(replace(split, labels=split.labels[::-1])),
        checksum(replace(split, images=split.images.reshape(-1, 1, 4, 16))),
    }
    assert len(others - {known}) == 5
