"""Train the network of the first page: the reward of whoever wrote it.

It stands beside the package that a reader wrote, and imports that one:

    python mine/train.py
"""

import numpy as np

import cnn


training, validation, test = cnn.load_dataset()
rng = np.random.default_rng(0)
side = (training.images.shape[2] - 2) // 2
network = cnn.Sequential(
    cnn.Conv2d(1, 8, kernel_size=3, rng=rng),
    cnn.ReLU(),
    cnn.MaxPool2d(2),
    cnn.Flatten(),
    cnn.Linear(8 * side * side, len(training.class_names), rng=rng),
)
optimizer = cnn.SGD(network.parameters(), lr=0.01, momentum=0.9)
cnn.train(
    network,
    optimizer,
    training,
    validation,
    epochs=30 if training.name == "digits" else 3,
    batch_size=32,
    rng=rng,
)
print(f"{cnn.__file__} wrote this network.")
print(f"It reads {cnn.evaluate(network, test)[1]:.2%} of the test images.")
