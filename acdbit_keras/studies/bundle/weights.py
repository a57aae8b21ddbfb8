"""Weights of a network as arrays by name, in files that numpy alone reads and writes."""

import numpy as np

from acdbit_keras.files import write_beside


def named(network):
    """The variables of a network by their path in it; the states of random generators have none."""
    parts = ((variable.path.partition("/"), variable) for variable in network.variables)
    return {name: variable for (root, _, name), variable in parts if root == network.name}


def assign(network, weights):
    """Gives a network weights by name.

    Raises:
        ValueError: one is missing or of another shape.
    """
    for name, variable in named(network).items():
        if name not in weights or tuple(weights[name].shape) != tuple(variable.shape):
            raise ValueError(f"the weights lack {name} of the shape {tuple(variable.shape)}; they are of another network")
        variable.assign(weights[name])


def write(path, weights):
    """Writes a dict from name to array, whole or not at all."""
    write_beside(path, lambda temporary: np.savez(temporary, **weights))


def read(path):
    """What `write` wrote."""
    with np.load(path) as file:
        return dict(file)
