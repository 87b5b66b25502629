"""Sequential, beside PyTorch; parameters that survive a bad day."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import in_order
from hypothesis import given
from hypothesis import strategies as st
from toys import (
    seed_network,
    steps_beside_torch,
    to_torch,
    two_convolutions,
)

from cnn import (
    CrossEntropyLoss,
    Layer,
    Linear,
    MaxPool2d,
    ReLU,
    Sequential,
    check_gradients,
    numerical_gradient,
    predict,
    relative_error,
)
from cnn.network import load_arrays, save_arrays


def gradients(network: Layer) -> list[np.ndarray]:
    return [p.grad.copy() for p in network.parameters()]


def values(network: Layer) -> list[np.ndarray]:
    return [p.value.copy() for p in network.parameters()]


def equal(these: list[np.ndarray], those: list[np.ndarray]) -> bool:
    return all(map(np.array_equal, these, those))


# --- forward and backward --------------------------------------------------


@given(
    depth=st.integers(1, 4),
    width=st.integers(1, 5),
    n=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
)
def test_sequential_is_the_composition(depth, width, n, seed):
    """Forward and backward equal the layers called by hand."""
    rng = np.random.default_rng(seed)
    layers = []
    for _ in range(depth):
        layers += [Linear(width, width, rng=rng).to(np.float64), ReLU()]
    network = Sequential(*layers)
    x, grad_output = rng.standard_normal((2, n, width))
    y, grad_input = network.forward(x), network.backward(grad_output)
    kept = gradients(network)
    by_hand = x
    for layer in layers:
        by_hand = layer.forward(by_hand)
    np.testing.assert_array_equal(y, by_hand)
    for layer in layers[::-1]:
        grad_output = layer.backward(grad_output)
    np.testing.assert_array_equal(grad_input, grad_output)
    assert equal(kept, gradients(network))


@pytest.mark.parametrize(
    ("network", "shape"),
    [(seed_network, (3, 1, 8, 8)), (two_convolutions, (3, 2, 9, 9))],
)
def test_every_gradient_agrees_with_finite_differences(network, shape):
    x = np.random.default_rng(1).standard_normal(shape)
    errors = check_gradients(network(), x, np.random.default_rng(2))
    assert set(errors) == {
        "input",
        *network().named_parameters(),
    }
    assert max(errors.values()) < 1e-7, errors


def test_gradients_of_the_loss_agree_with_finite_differences():
    """From the parameters through the loss, the one number of training."""
    network, criterion = seed_network(), CrossEntropyLoss()
    x = np.random.default_rng(1).standard_normal((4, 1, 8, 8))
    labels = np.array([3, 0, 9, 3])
    criterion.forward(network.forward(x), labels)
    network.backward_parameters(criterion.backward())
    for name, p in network.named_parameters().items():

        def loss(value, p=p):
            kept, p.value = p.value, value
            result = criterion.forward(network.forward(x), labels)
            p.value = kept
            return result

        numerical = numerical_gradient(loss, p.value)
        assert relative_error(p.grad, numerical) < 1e-7, name


def test_a_lost_gradient_is_noticed():
    """A pooling backward that returns too early trains, but is caught."""

    class HastyMaxPool2d(MaxPool2d):
        def backward(self, grad_output):
            _, x, _ = self.saved(grad_output)
            kept = np.zeros_like(x)
            kept[:, :, ::2, ::2] = super().backward(grad_output)[
                :, :, ::2, ::2
            ]
            return kept

    network = seed_network()
    network.layers[2].__class__ = HastyMaxPool2d
    x = np.random.default_rng(1).standard_normal((3, 1, 8, 8))
    errors = check_gradients(network, x, np.random.default_rng(2))
    assert errors["0.weight"] > 0.1
    assert errors["4.weight"] < 1e-7


@pytest.mark.parametrize(
    ("network", "shape"),
    [(seed_network, (3, 1, 8, 8)), (two_convolutions, (3, 2, 9, 9))],
)
def test_gradients_agree_with_pytorch(network, shape):
    mine = network()
    theirs = to_torch(mine)
    rng = np.random.default_rng(3)
    x = rng.standard_normal(shape)
    y = mine.forward(x)
    grad_output = rng.standard_normal(y.shape)
    grad_input = mine.backward(grad_output)
    x_torch = torch.from_numpy(x).requires_grad_()
    y_torch = theirs(x_torch)
    y_torch.backward(torch.from_numpy(grad_output))
    np.testing.assert_allclose(y, y_torch.detach(), rtol=0, atol=1e-10)
    np.testing.assert_allclose(grad_input, x_torch.grad, rtol=0, atol=1e-10)
    for p, q in zip(mine.parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(p.grad, q.grad, rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("network", "shape"),
    [(seed_network, (3, 1, 8, 8)), (two_convolutions, (3, 2, 9, 9))],
)
def test_a_state_dict_travels_to_pytorch_and_back(
    tmp_path, network, shape, dtype
):
    x = np.random.default_rng(4).standard_normal(shape).astype(dtype)
    ours = network().to(dtype)
    theirs = to_torch(network(seed=1).to(dtype))  # with other weights

    def outputs_are_equal():
        y = theirs(torch.from_numpy(x)).detach().numpy()
        rounding = 100 * np.finfo(dtype).eps * np.abs(y).max()
        return np.abs(ours.forward(x) - y).max() <= rounding

    assert not outputs_are_equal()
    state = ours.state_dict()
    tensors = {name: torch.from_numpy(a) for name, a in state.items()}
    torch.save(tensors, tmp_path / "ours.pt")
    loaded = torch.load(tmp_path / "ours.pt", weights_only=True)
    theirs.load_state_dict(loaded)  # each name, each shape
    assert outputs_are_equal()

    drawn = to_torch(network(seed=2).to(dtype))
    torch.save(drawn.state_dict(), tmp_path / "theirs.pt")
    loaded = torch.load(tmp_path / "theirs.pt", weights_only=True)
    theirs.load_state_dict(loaded)
    assert not outputs_are_equal()
    ours.load_state_dict({name: t.numpy() for name, t in loaded.items()})
    assert outputs_are_equal()
    for name, array in ours.state_dict().items():
        np.testing.assert_array_equal(array, loaded[name].numpy())
        assert array.dtype == dtype


@pytest.mark.parametrize(
    ("network", "shape", "classes"),
    [(seed_network, (16, 1, 8, 8), 10), (two_convolutions, (16, 2, 9, 9), 5)],
)
def test_fifty_steps_beside_pytorch(network, shape, classes):
    """Momentum, weight decay, 50 minibatches: every weight stays equal."""
    mine = network()
    theirs = to_torch(mine)
    start = values(mine)
    steps_beside_torch(mine, theirs, shape, classes)
    for (name, p), q, first in zip(
        mine.named_parameters().items(),
        theirs.parameters(),
        start,
        strict=True,
    ):
        np.testing.assert_allclose(p.value, q.detach(), rtol=0, atol=1e-10)
        assert np.abs(p.value - first).max() > 1e-3, f"{name} never moved"


@pytest.mark.parametrize(
    ("network", "shape"),
    [(seed_network, (3, 1, 8, 8)), (two_convolutions, (3, 2, 9, 9))],
)
def test_backward_parameters_gives_the_same_gradients(network, shape):
    net, rng = network(), np.random.default_rng(5)
    grad_output = rng.standard_normal(
        net.forward(rng.standard_normal(shape)).shape
    )
    net.backward(grad_output)
    kept = gradients(net)
    for p in net.parameters():
        p.grad = np.full_like(p.grad, np.nan)
    net.backward_parameters(grad_output)
    assert equal(kept, gradients(net))


def test_the_first_layer_is_not_asked_for_its_input_gradient():
    class Proud(Linear):
        def backward(self, grad_output):
            raise AssertionError("dL/dx of the images was computed")

        def backward_parameters(self, grad_output):
            super().backward(grad_output)

    rng = np.random.default_rng(0)
    network = Sequential(Proud(2, 2, rng=rng), ReLU(), Linear(2, 1, rng=rng))
    network.backward_parameters(network.forward(np.ones((1, 2))))


def test_parameters_are_named_by_place_and_kept_in_order():
    rng = np.random.default_rng(0)
    inner = Sequential(Linear(2, 2, rng=rng), ReLU())
    outer = Sequential(ReLU(), inner, Linear(2, 1, rng=rng))
    names = ["1.0.weight", "1.0.bias", "2.weight", "2.bias"]
    assert list(outer.named_parameters()) == names
    assert outer.parameters()[0] is inner.parameters()[0]


def test_a_sequential_in_a_sequential_computes_the_same():
    rng = np.random.default_rng(0)
    layers = [Linear(3, 3, rng=rng), ReLU(), Linear(3, 3, rng=rng)]
    flat = Sequential(*layers)
    x, grad_output = rng.standard_normal((2, 4, 3))
    y, grad_input = flat.forward(x), flat.backward(grad_output)
    nested = Sequential(Sequential(*layers[:2]), layers[2])
    np.testing.assert_array_equal(nested.forward(x), y)
    np.testing.assert_array_equal(nested.backward(grad_output), grad_input)


def test_layers_of_another_sequential_have_the_names_of_their_place():
    """As when a notebook's cell is run twice: no array keeps a name."""
    layers = seed_network().layers
    first, again = Sequential(*layers), Sequential(*layers)
    deeper = Sequential(again, ReLU())
    names = ["0.weight", "0.bias", "4.weight", "4.bias"]
    assert list(first.state_dict()) == list(again.state_dict()) == names
    assert list(deeper.state_dict()) == [f"0.{name}" for name in names]


# --- saving and loading ----------------------------------------------------


def test_a_file_fits_the_same_layers_in_a_second_sequential(tmp_path):
    path, layers = tmp_path / "net.npz", seed_network(1).layers
    save_arrays(path, Sequential(*layers).state_dict())
    again = Sequential(*layers)
    again.load_state_dict(load_arrays(path), path)


def test_what_was_saved_is_loaded_to_the_bit(tmp_path):
    path, one, other = tmp_path / "net.npz", seed_network(1), seed_network(2)
    assert not equal(values(one), values(other))
    save_arrays(path, one.state_dict())
    other.load_state_dict(load_arrays(path), path)
    assert equal(values(one), values(other))
    assert list(tmp_path.iterdir()) == [path]


def test_loading_keeps_dtype_and_arrays(tmp_path):
    """The optimizer and the layers go on holding the same arrays."""
    path, network = tmp_path / "net.npz", seed_network().to(np.float32)
    save_arrays(path, seed_network(1).state_dict())
    held = [p.value for p in network.parameters()]
    network.load_state_dict(load_arrays(path), path)
    for p, array in zip(network.parameters(), held, strict=True):
        assert p.value is array
        assert array.dtype == np.float32


def test_another_architecture_is_refused(tmp_path):
    path, network = tmp_path / "net.npz", seed_network(filters=3)
    save_arrays(path, seed_network(filters=4).state_dict())
    before = values(network)
    with pytest.raises(
        ValueError,
        match=in_order(
            *(path, "another architecture", (4, 1, 3, 3), "expected"),
            *((3, 1, 3, 3), "Build the network that was saved"),
        ),
    ):
        network.load_state_dict(load_arrays(path), path)
    assert equal(values(network), before)


@pytest.mark.parametrize("change", ["missing", "extra", "renamed", "text"])
def test_parameters_that_do_not_fit_change_nothing(change):
    network = seed_network()
    arrays = {name: a + 1 for name, a in network.state_dict().items()}
    if change == "missing":
        del arrays["4.bias"]
    elif change == "extra":
        arrays["5.weight"] = np.zeros(3)
    elif change == "renamed":
        arrays["5.bias"] = arrays.pop("4.bias")
    else:  # the last of all, so that those before it could be changed
        arrays["4.bias"] = np.full(10, "ten")
    before = values(network)
    with pytest.raises(ValueError, match=r"."):
        network.load_state_dict(arrays, "these arrays")
    assert equal(values(network), before)


def tiny_network(seed: int = 0) -> Sequential:
    """Little to save, so that each byte of its file can be tried."""
    return Sequential(Linear(1, 1, rng=np.random.default_rng(seed)))


def test_a_file_cut_short_at_any_byte_is_refused(tmp_path):
    path, network = tmp_path / "net.npz", tiny_network()
    save_arrays(path, tiny_network(1).state_dict())
    content, before = path.read_bytes(), values(network)
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(
            ValueError,
            match=in_order(
                *(path, "cannot be read"),
                *("Expected a whole .npz file", "Delete it"),
            ),
        ):
            network.load_state_dict(load_arrays(path), path)
    assert equal(values(network), before)


def test_a_damaged_file_never_gives_other_numbers(tmp_path):
    """One flipped bit at any byte: refused, or it did not matter."""
    path, network = tmp_path / "net.npz", tiny_network()
    save_arrays(path, network.state_dict())
    content, right = path.read_bytes(), values(network)
    rng = np.random.default_rng(0)
    refused = 0
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            network.load_state_dict(load_arrays(path), path)
        except ValueError:
            refused += 1
        assert equal(values(network), right)
    assert refused > len(content) / 2


@pytest.mark.parametrize("kind", ["npy", "text", "pickle"])
def test_a_file_of_another_kind_is_refused(tmp_path, kind):
    path = tmp_path / "net.npz"
    with open(path, "wb") as file:
        if kind == "npy":
            np.save(file, np.zeros(3))
        elif kind == "text":
            file.write(b"weights, honestly")
        else:  # an object array, which could run code when it is read
            np.savez(file, weight=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="cannot be read as saved arrays"):
        load_arrays(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.npz"):
        load_arrays(tmp_path / "nowhere.npz")


def test_a_crash_before_the_rename_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "net.npz"
    save_arrays(path, seed_network(1).state_dict())
    content = path.read_bytes()

    def crash(*args):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(OSError, match="no space"):
        save_arrays(path, seed_network(2).state_dict())
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path], "a partial file was left"


# The process ends itself at one point of the writing, as a power cut would.
KILLED = """
import os, signal, sys, zipfile
import numpy as np
from cnn.network import save_arrays

path, module, name = sys.argv[1:]
owner = {"os": os, "ZipFile": zipfile.ZipFile}[module]
setattr(owner, name, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
save_arrays(path, {"first": np.ones(100_000), "second": np.ones(9)})
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is not there")
@pytest.mark.parametrize(
    "point", [("ZipFile", "close"), ("os", "fsync"), ("os", "replace")]
)
def test_a_kill_while_writing_leaves_the_old_file(tmp_path, point):
    path = tmp_path / "net.npz"
    save_arrays(path, {"first": np.zeros(3)})
    content = path.read_bytes()
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(path), *point],
        cwd=Path(__file__).parents[1],
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert path.read_bytes() == content
    save_arrays(path, {"first": np.ones(3)})  # what is left is no hindrance
    np.testing.assert_array_equal(load_arrays(path)["first"], np.ones(3))


# --- predict, which the chapter of training has, and which needs no more ----


def test_predict_is_forward_in_pieces():
    network = seed_network(0, 4, np.float32)
    x = np.random.default_rng(1).standard_normal((1257, 1, 8, 8))
    x = x.astype(np.float32)
    np.testing.assert_allclose(
        predict(network, x), network.forward(x), rtol=1e-5, atol=1e-5
    )


def test_predict_leaves_each_layer_in_its_mode():
    network = seed_network(0, 4, np.float32)
    network.layers[1].eval()
    modes = [layer.training for layer in network.modules()]
    predict(network, np.ones((3, 1, 8, 8), np.float32))
    assert [layer.training for layer in network.modules()] == modes
    assert {*modes} == {True, False}


# --- bad input -------------------------------------------------------------


def test_no_layers_are_refused():
    with pytest.raises(ValueError, match="given 0 layers"):
        Sequential()


def test_one_layer_at_two_places_is_refused():
    relu, rng = ReLU(), np.random.default_rng(0)
    with pytest.raises(
        ValueError,
        match=in_order(
            "given 3 layers, 2 of them", "each once", "Make a new layer"
        ),
    ):
        Sequential(relu, Linear(2, 2, rng=rng), relu)
