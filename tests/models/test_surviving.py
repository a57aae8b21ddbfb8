"""Runs that survive: one process in a folder at a time, damaged states, and what killed writes leave behind."""

import os
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest

from acdbit_keras import files
from acdbit_keras.models import load_model, recipes
from acdbit_keras.models.callbacks import read_progress, restore_state, save_state
from acdbit_keras.models.run import Run, previous_state
from acdbit_keras.models.train import train

GONE = 2**22 - 3  # above the largest number that a process of a usual machine has


# === The lock ===
HOLDS = """
import sys
from acdbit_keras.models.run import Run
with Run(sys.argv[1]).locked():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that trains in a folder."""
    folder = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield folder, process
    process.kill()
    process.wait()


def test_a_second_training_in_a_folder_names_the_first_and_gives_up(holder):
    folder, process = holder
    with pytest.raises(
        ValueError, match=f"process {process.pid} on {socket.gethostname()} is training in .*run; wait until it ends"
    ):
        train(recipes.get("digits_acd_bit"), folder)
    assert not (folder / "recipe.json").exists()
    process.kill()
    process.wait()
    with Run(folder).locked():
        assert (folder / "lock").read_text() == f"process {os.getpid()} on {socket.gethostname()}"
    assert not (folder / "lock").exists()


def test_a_folder_in_which_nothing_came_about_is_not_left(tmp_path):
    with pytest.raises(RuntimeError), Run(tmp_path / "run").locked():
        raise RuntimeError
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="is training in"), Run(tmp_path / "run").locked(), Run(tmp_path / "run").locked():
        pass


# === Damaged states ===
@pytest.fixture(scope="module")
def trained():
    network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    optimizer.build(network.trainable_variables)
    return network, optimizer


@pytest.fixture
def state(trained, tmp_path):
    """The states of two epochs; the weights of each are its number."""
    path = tmp_path / "state.npz"
    for epoch in (1, 2):
        for weight in trained[0].weights:
            weight.assign(np.full(weight.shape, epoch))
        save_state(path, *trained, finished_epochs=epoch, best=epoch / 10)
    return path


def truncated(path):
    path.write_bytes(path.read_bytes()[:-40])


def flipped(path):
    content = bytearray(path.read_bytes())
    content[content.index(b"variable_1.npy") + 150] ^= 1
    path.write_bytes(content)


def swapped(path):
    """Whole as an archive, but with other numbers than the checksum was taken of."""
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **{**arrays, "variable_0": arrays["variable_0"] + 1})


def emptied(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncated, flipped, swapped, emptied])
def test_a_damaged_state_is_recognised_and_the_one_before_is_used(damage, state, trained):
    assert read_progress(state) == (2, 0.2)
    damage(state)
    with pytest.warns(UserWarning, match="state.npz is damaged .*; the run goes on from the state before it, after epoch 1"):
        assert read_progress(state) == (1, 0.1)
    restore_state(state, *trained)
    assert all((np.asarray(weight) == 1).all() for weight in trained[0].weights)
    save_state(state, *trained, finished_epochs=2, best=0.3)
    assert read_progress(state) == (2, 0.3) and previous_state(state).exists()


def test_a_process_killed_between_two_renames_goes_on_from_the_state_before(state):
    state.unlink()
    assert read_progress(state) == (1, 0.1)


def test_two_damaged_states_say_what_to_do(state):
    truncated(state)
    emptied(previous_state(state))
    with pytest.raises(ValueError, match="state.npz is damaged .*, and so is the one before .*; remove the folder .* to begin"):
        read_progress(state)


def test_a_state_of_an_older_version_is_taken(state):
    with np.load(state) as file:
        arrays = {name: file[name] for name in file.files if name != "checksum"}
    np.savez(state, **arrays)
    assert read_progress(state) == (2, 0.2)


# === Leftovers ===
@pytest.mark.parametrize("name", [".model.{}.keras", ".model.{}@{host}.keras"])
def test_what_a_killed_write_left_is_removed_with_the_next(name, tmp_path):
    host = socket.gethostname()
    left = tmp_path / name.format(GONE, host=host)
    kept = [
        tmp_path / f".model.{os.getppid()}@{host}.keras",
        tmp_path / f".model.{GONE}@elsewhere.keras",
        tmp_path / ".model.keras",
    ]
    other = tmp_path / f".other.{GONE}.keras"
    for path in (left, other, *kept):
        path.write_text("half")
    files.write_beside(tmp_path / "model.keras", lambda path: path.write_text("whole"))
    assert not left.exists() and other.exists() and all(path.exists() for path in kept)
    assert (tmp_path / "model.keras").read_text() == "whole"


def test_a_run_removes_what_a_killed_one_left(tmp_path):
    left = [tmp_path / f".{name}.{GONE}{suffix}" for name, suffix in (("state", ".npz"), ("best", ".keras"), ("model", ".keras"))]
    for path in left:
        path.write_text("half")
    with Run(tmp_path).locked():
        assert not any(path.exists() for path in left)


# === First steps ===
def test_a_model_that_is_not_there_is_told_with_what_makes_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file .*nowhere; acdbit train makes a run, acdbit zoo lists what is"):
        load_model(tmp_path / "nowhere")
    assert load_model("digits_vit_nano_acd_bit").classes == 10
