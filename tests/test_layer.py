"""The promise: what every layer does, and what importing it costs."""

import subprocess
import sys
from contextlib import nullcontext

import numpy as np
import pytest
from conftest import CONTRACT_LAYERS, in_order
from toys import digits

from cnn import (
    SGD,
    Buffer,
    Conv2d,
    Flatten,
    Layer,
    Linear,
    Parameter,
    ReLU,
    Sequential,
    check_gradients,
    evaluate,
    load_arrays,
    predict,
    save_arrays,
    train,
)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_importing_cnn_costs_numpy_alone():
    script = (
        "import sys; import cnn; print(*sorted("
        "{name.partition('.')[0] for name in sys.modules}))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    others = set(loaded) - set(sys.stdlib_module_names)
    heavy = {
        *("matplotlib", "torch", "torchvision", "sklearn", "tqdm", "scipy"),
        *("pandas", "IPython", "matplotlib_inline", "PIL"),
    }
    assert {"numpy", "cnn"} <= others
    assert others & heavy == set()


def test_gradients_have_the_shapes_of_what_they_are_to(layer_and_x):
    layer, x = layer_and_x
    y = layer.forward(x)
    assert layer.backward(np.ones_like(y)).shape == x.shape
    for parameter in layer.parameters():
        assert parameter.grad.shape == parameter.value.shape


def test_gradients_agree_with_differences(layer_and_x):
    layer, x = layer_and_x
    errors = check_gradients(layer.to(np.float64), x.astype(np.float64), rng())
    assert errors.keys() == {"input", *layer.named_parameters()}
    assert max(errors.values()) < 1e-7, errors


def test_an_image_is_answered_alone_as_in_company(layer_and_x):
    layer, x = layer_and_x
    y = layer.eval().forward(x)
    alone = [layer.forward(x[n : n + 1]) for n in range(len(x))]
    assert np.allclose(y, np.concatenate(alone), rtol=1e-5, atol=1e-6)


def test_a_state_goes_back_into_its_layer(layer_and_x):
    layer, _ = layer_and_x
    state = {name: a + 1 for name, a in layer.state_dict().items()}
    held = layer.parameters()
    assert layer.named_parameters().keys() <= state.keys()
    layer.load_state_dict(state)
    for parameter, kept in zip(layer.parameters(), held, strict=True):
        assert parameter is kept
    for name, array in layer.state_dict().items():
        assert np.array_equal(array, state[name])
    state["another"] = np.zeros(1)
    with pytest.raises(ValueError, match="another architecture"):
        layer.load_state_dict(state)


def test_dtype_is_kept(layer_and_x):
    layer, x = layer_and_x
    for dtype in (np.float32, np.float64):
        layer.to(dtype)
        y = layer.forward(x.astype(dtype))
        assert y.dtype == dtype
        assert layer.backward(np.ones_like(y)).dtype == dtype
        for parameter in layer.parameters():
            assert parameter.value.dtype == dtype
            assert parameter.grad.dtype == dtype


def test_nothing_given_is_changed(layer_and_x):
    layer, x = layer_and_x
    y = layer.forward(x)
    grad = rng().standard_normal(y.shape)
    given = [x, y, grad, *(p.value for p in layer.parameters())]
    kept = [array.copy() for array in given]
    for array in given:
        array.flags.writeable = False  # who writes into it, raises
    layer.backward(grad)
    assert np.array_equal(layer.forward(x), y)
    for array, before in zip(given, kept, strict=True):
        assert np.array_equal(array, before)


def test_backward_overwrites_and_repeats(layer_and_x):
    layer, x = layer_and_x
    y = layer.forward(x)
    grad = rng().standard_normal(y.shape).astype(np.float32)
    first = layer.backward(grad).copy()
    grads = [p.grad.copy() for p in layer.parameters()]
    assert np.array_equal(layer.backward(grad), first)
    for parameter, kept in zip(layer.parameters(), grads, strict=True):
        assert np.array_equal(parameter.grad, kept)


def test_backward_is_linear_in_what_it_is_given(layer_and_x):
    layer, x = layer_and_x
    layer.to(np.float64)
    y = layer.forward(x.astype(np.float64))
    a, b = rng().standard_normal((2, *y.shape))
    together = layer.backward(2 * a - 3 * b)
    apart = 2 * layer.backward(a) - 3 * layer.backward(b)
    assert np.allclose(together, apart, rtol=0, atol=1e-12)


def test_backward_parameters_gives_the_same_gradients(layer_and_x):
    layer, x = layer_and_x
    y = layer.forward(x)
    grad = rng().standard_normal(y.shape).astype(np.float32)
    layer.backward(grad)
    whole = [p.grad.copy() for p in layer.parameters()]
    for parameter in layer.parameters():
        parameter.grad = np.full_like(parameter.value, np.nan)
    layer.backward_parameters(grad)
    for parameter, kept in zip(layer.parameters(), whole, strict=True):
        assert np.array_equal(parameter.grad, kept)


@pytest.mark.parametrize("name", ["backward", "backward_parameters"])
def test_backward_before_forward(layer_and_x, name):
    layer, x = layer_and_x
    y = layer.forward(x)
    fresh = CONTRACT_LAYERS[type(layer).__name__][0]()
    whose = "" if isinstance(fresh, Sequential) else type(fresh).__name__
    with pytest.raises(
        ValueError,
        match=in_order(
            f"{whose}.backward ", "before forward", "Call forward(x) first"
        ),
    ):
        getattr(fresh, name)(np.ones_like(y))


# --- what a layer holds ----------------------------------------------------


class BatchNorm(Layer):
    """Each feature to mean 0 and variance 1; running statistics kept."""

    def __init__(self, features):
        self.scale = Parameter(np.ones(features, np.float32))
        self.shift = Parameter(np.zeros(features, np.float32))
        self.mean = Buffer(np.zeros(features, np.float32))
        self.variance = Buffer(np.ones(features, np.float32))
        self.batches = Buffer(np.zeros((), np.int64))

    def forward(self, x):
        mean, variance = self.mean.value, self.variance.value
        if self.training:
            mean, variance = x.mean(axis=0), x.var(axis=0)
            self.mean.value = 0.9 * self.mean.value + 0.1 * mean
            self.variance.value = 0.9 * self.variance.value + 0.1 * variance
            self.batches.value += 1
        sigma = np.sqrt(variance + 1e-5)
        unit = (x - mean) / sigma
        y = self.scale.value * unit + self.shift.value
        self.save_for_backward(y, unit, sigma, self.training)
        return y

    def backward(self, grad_output):
        grad_output, unit, sigma, training = self.saved(grad_output)
        self.scale.grad = (grad_output * unit).sum(axis=0)
        self.shift.grad = grad_output.sum(axis=0)
        grad = grad_output * self.scale.value
        if training:
            grad = grad - grad.mean(axis=0) - unit * (grad * unit).mean(axis=0)
        return grad / sigma


class Dropout(Layer):
    """Half of the features are zero while it trains, none afterwards."""

    def __init__(self, rng):
        self.rng = rng

    def forward(self, x):
        keep = np.ones_like(x)
        if self.training:
            keep = 2 * self.rng.integers(2, size=x.shape).astype(x.dtype)
        y = keep * x
        self.save_for_backward(y, keep)
        return y

    def backward(self, grad_output):
        grad_output, keep = self.saved(grad_output)
        return keep * grad_output


class Residual(Layer):
    """y = x + f(x), of layers that are kept in a list."""

    def __init__(self, *layers):
        self.body = list(layers)
        self.gain = Parameter(np.ones(1))


def normalised(seed=0):
    generator = np.random.default_rng(seed)
    return Sequential(
        Flatten(),
        Linear(64, 16, rng=generator),
        BatchNorm(16),
        ReLU(),
        Dropout(generator),
        Linear(16, 10, rng=generator),
    )


TRAINING, _, TEST = digits()


def trained(seed=0, epochs=2):
    network, generator = normalised(seed), np.random.default_rng(seed)
    optimizer = SGD(network.parameters(), 0.05, 0.9)
    train(
        network,
        optimizer,
        TRAINING,
        TEST,
        epochs=epochs,
        batch_size=32,
        rng=generator,
    )
    return network


def test_parameters_are_the_attributes_in_the_order_they_were_set():
    layer = BatchNorm(3)
    assert list(layer.named_parameters()) == ["scale", "shift"]
    assert layer.parameters() == [layer.scale, layer.shift]
    assert list(layer.state_dict()) == [
        *("scale", "shift", "mean", "variance", "batches"),
    ]


def test_layers_within_are_found_among_attributes_and_in_lists():
    layer = Residual(Linear(2, 2, rng=rng()), Sequential(BatchNorm(2)))
    outer = Sequential(ReLU(), layer)
    assert list(outer.named_parameters()) == [
        *("1.gain", "1.body.0.weight", "1.body.0.bias"),
        *("1.body.1.0.scale", "1.body.1.0.shift"),
    ]
    kinds = [type(each).__name__ for each in outer.modules()]
    assert kinds == [
        *("Sequential", "ReLU", "Residual", "Linear"),
        *("Sequential", "BatchNorm"),
    ]
    layer.other = layer.body.pop()  # names are those of the place it has now
    assert "1.other.0.scale" in outer.named_parameters()


def test_parameters_in_lists_are_found_and_what_forward_kept_is_not():
    layer = Layer()
    layer.weights = [Parameter(np.ones(2)), Parameter(np.ones(3))]
    layer.table = (Buffer(np.ones(4)), "a word")
    kept = layer.weights[0], Linear(2, 2, rng=rng())
    layer.save_for_backward(np.ones(1), *kept)
    assert list(layer.state_dict()) == ["weights.0", "weights.1", "table.0"]
    assert len(layer.parameters()) == 2
    assert repr(layer) == "Layer(weights.0 (2,), weights.1 (3,), table.0 (4,))"


def test_state_is_a_copy_and_loading_changes_the_arrays_in_place():
    one, other = normalised(1), normalised(2)
    held, state = other.named_arrays(), one.state_dict()
    values = {name: array.value for name, array in held.items()}
    other.load_state_dict(state)
    for name, array in other.named_arrays().items():
        assert array.value is values[name]
        assert np.array_equal(array.value, state[name])
        state[name] += 1
        assert not np.array_equal(array.value, state[name])
        assert not np.array_equal(one.named_arrays()[name].value, state[name])


def test_whole_numbers_come_through_a_state_unrounded():
    layer, other = Layer(), Layer()
    layer.count, other.count = Buffer([2**60 + 1]), Buffer([0])
    other.load_state_dict(layer.state_dict())
    assert other.count.value.tolist() == [2**60 + 1]  # no float64 holds it


def test_a_state_without_its_buffers_is_refused():
    network = normalised()
    state = network.state_dict()
    del state["2.mean"]
    with pytest.raises(
        ValueError, match="a file was saved from another architecture"
    ):
        network.load_state_dict(state, "a file")


def test_what_is_saved_answers_as_before(tmp_path):
    network, path = trained(), tmp_path / "net.npz"
    before = predict(network, TEST.images)
    assert (before.argmax(axis=1) == TEST.labels).mean() > 0.85
    save_arrays(path, network.state_dict())
    again = normalised(seed=7)
    again.load_state_dict(load_arrays(path), path)
    assert np.array_equal(predict(again, TEST.images), before)
    # The running statistics are part of it: without them it is another.
    again.named_arrays()["2.mean"].value[...] = 0
    assert not np.array_equal(predict(again, TEST.images), before)


def test_a_checkpoint_brings_buffers_back(tmp_path):
    path = tmp_path / "run.npz"
    options = {"batch_size": 32, "checkpoint": path}
    results = []
    for epochs in ([2], [1, 2]):
        path.unlink(missing_ok=True)
        for last in epochs:
            network = normalised(3)
            # Dropout's own dice are not in the file: they start anew.
            network.layers[4].rng = np.random.default_rng(last - 1)
            generator = np.random.default_rng(5)
            optimizer = SGD(network.parameters(), 0.01)
            train(
                network,
                optimizer,
                TRAINING.subset(slice(200)),
                TEST,
                epochs=last,
                rng=generator,
                **options,
            )
        results.append(network.state_dict())
    assert results[0]["2.batches"] == results[1]["2.batches"] == 14


def test_train_and_eval_reach_every_layer():
    network = Sequential(Residual(ReLU(), Sequential(Flatten())), ReLU())
    assert all(each.training for each in network.modules())
    assert network.eval() is network
    assert not any(each.training for each in network.modules())
    assert network.train() is network
    assert all(each.training for each in network.modules())


def test_evaluate_moves_nothing_and_gives_one_answer():
    network = trained(epochs=1)
    before = network.state_dict()
    assert evaluate(network, TEST) == evaluate(network, TEST)
    one_by_one = [predict(network, x[np.newaxis]) for x in TEST.images[:20]]
    assert np.allclose(
        np.concatenate(one_by_one),
        predict(network, TEST.images[:20]),
        atol=1e-5,
    )
    for name, value in network.state_dict().items():
        assert np.array_equal(value, before[name])


@pytest.mark.parametrize("fails", [False, True])
def test_predict_leaves_each_layer_in_its_own_mode(fails):
    network = normalised()
    network.layers[2].eval()  # a normalisation that is frozen
    modes = [each.training for each in network.modules()]
    assert len(set(modes)) == 2
    seen = []

    class Spy(Layer):
        def forward(self, x):
            seen.append(self.training)
            if fails:
                raise KeyboardInterrupt
            return x

    network.layers = (*network.layers, Spy())
    with pytest.raises(KeyboardInterrupt) if fails else nullcontext():
        predict(network, TEST.images)
    assert set(seen) == {False}
    assert [each.training for each in network.modules()] == [*modes, True]


@pytest.mark.parametrize("training", [True, False])
def test_the_toy_normalisation_keeps_its_promise(training):
    layer = BatchNorm(3).to(np.float64).train(training)
    layer.scale.value[...] = [0.5, 2, 3]
    x = rng().standard_normal((6, 3))
    errors = check_gradients(layer, x, np.random.default_rng(1))
    assert max(errors.values()) < 1e-7, errors


def test_without_a_shorter_way_backward_parameters_is_backward():
    layer = BatchNorm(3).to(np.float64)
    grad = rng().standard_normal(layer.forward(np.eye(4, 3)).shape)
    layer.backward_parameters(grad)
    first = layer.scale.grad, layer.shift.grad
    layer.scale.grad = layer.shift.grad = None
    layer.backward(grad)
    assert np.array_equal(first, (layer.scale.grad, layer.shift.grad))
    assert np.any(first)


def test_to_turns_floats_and_leaves_counts():
    layer = BatchNorm(2).to(np.float64)
    kinds = {name: a.dtype for name, a in layer.state_dict().items()}
    assert kinds.pop("batches") == np.int64
    assert set(kinds.values()) == {np.dtype(np.float64)}
    assert layer.scale.grad.dtype == np.float64
    assert layer.to(np.float32).scale.grad.dtype == np.float32


def test_repr_shows_the_layers_and_the_shapes_of_their_arrays():
    network = Sequential(
        Conv2d(1, 8, 3, rng=rng()),
        ReLU(),
        Residual(Linear(2, 3, rng=rng())),
        BatchNorm(2),
    )
    assert (
        repr(network)
        == """\
Sequential(
  (0): Conv2d(weight (8, 1, 3, 3), bias (8,))
  (1): ReLU()
  (2): Residual(gain (1,)
    (body.0): Linear(weight (3, 2), bias (3,))
  )
  (3): BatchNorm(scale (2,), shift (2,), mean (2,), variance (2,), batches ())
)"""
    )


# --- what forward keeps ----------------------------------------------------


def test_what_one_layer_saved_is_not_anothers():
    first, second = ReLU(), ReLU()
    first.forward(np.array([[1.0]]))
    with pytest.raises(ValueError, match="before forward"):
        second.backward(np.array([[1.0]]))


def test_forward_again_replaces_what_was_saved():
    layer = ReLU()
    layer.forward(np.array([[1.0]]))
    layer.forward(np.array([[-1.0]]))
    assert layer.backward(np.array([[1.0]])) == 0


def test_saved_values_come_back_in_order():
    layer = Layer()
    layer.save_for_backward(np.ones((2, 3)), 1, "two")
    grad = np.zeros((2, 3))
    assert layer.saved(grad) == (grad, 1, "two")


def test_a_bare_layer_promises_nothing():
    layer = Layer()
    assert layer.parameters() == []
    with pytest.raises(NotImplementedError):
        layer.forward(np.ones((1, 1)))
    with pytest.raises(NotImplementedError):
        layer.backward(np.ones((1, 1)))
    with pytest.raises(NotImplementedError):
        layer.backward_parameters(np.ones((1, 1)))


def test_parameter_starts_with_a_gradient_of_its_own():
    value = np.ones((2, 3), np.float32)
    parameter = Parameter(value)
    assert parameter.value is value
    assert parameter.grad.shape == (2, 3)
    assert parameter.grad.dtype == np.float32
    assert not parameter.grad.any()


def test_to_returns_the_layer_and_keeps_values():
    layer = Linear(3, 2, rng=rng())
    kept = layer.weight.value.copy()
    layer.weight.grad[...] = 5
    assert layer.to(np.float64) is layer
    assert np.array_equal(layer.weight.value, kept)
    assert (layer.weight.grad == 5).all()
    assert layer.weight.grad.dtype == np.float64
    assert layer.bias.value.dtype == np.float64
