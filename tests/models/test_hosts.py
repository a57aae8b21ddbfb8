"""Training on several hosts: two processes of two virtual devices give the loss curve of one device, also when one is lost."""

import csv
import os
import re
import signal
import site
import socket
import subprocess
import threading
import time

import pytest

from acdbit_keras import schemes
from acdbit_keras.models import hosts, recipes
from acdbit_keras.models.train import train

# The JAX environment has no TensorFlow, whose pipelines feed a recipe: this one's is appended, behind what both have.
START = "import sys; sys.path.append(sys.argv.pop(1)); from acdbit_keras.cli import script; sys.exit(script())"
SETTINGS = ["--set", "preset=vit_nano_patch2_8", "--set", "epochs=3", "--set", "drop_path=0.1"]
ROWS = ("loss", "accuracy", "val_loss", "val_accuracy")


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture
def start(jax_python, tmp_path):
    """Starts `acdbit train digits_teacher` under JAX with two virtual devices, into a folder; what it says goes to a file."""
    processes = []

    def start(name, folder, *arguments):
        flags = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
        environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
        command = [jax_python, "-c", START, site.getsitepackages()[0], "train", "digits_teacher", *SETTINGS]
        with (tmp_path / name).open("w") as said:
            options = ["--out", str(tmp_path / folder), *arguments]
            processes.append(subprocess.Popen([*command, *options], env=environment, stdout=said, stderr=said))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()


def rows(folder):
    path = folder / "history.csv"
    return list(csv.DictReader(path.open())) if path.exists() else []


def test_two_hosts_give_the_loss_curve_of_one_device_and_go_on_after_one_was_lost(start, tmp_path):
    said = {name: tmp_path / name for name in ("first", "second", "again", "second again", "alone")}

    def pair(*names):
        coordinator = f"127.0.0.1:{free_port()}"
        options = ("--devices", "2", "--hosts", "2", "--coordinator", coordinator)
        return [start(name, "shared", *options, "--host", str(number)) for number, name in enumerate(names)]

    first, second = pair("first", "second")
    alone = start("alone", "one")
    end = time.monotonic() + 600
    while not rows(tmp_path / "shared") and first.poll() is None and time.monotonic() < end:
        time.sleep(0.1)
    assert len(rows(tmp_path / "shared")) == 1, said["first"].read_text()
    # Not before the state is written, which follows the row.
    while not (tmp_path / "shared" / "state.npz").exists() and time.monotonic() < end:
        time.sleep(0.1)
    second.send_signal(signal.SIGKILL)
    assert first.wait(300) != 0
    sentence = "(host 1|this host or another|another host) was lost.*start all of them again"
    # Where the process was ended, the one that has the last word speaks behind it.
    end = time.monotonic() + 30
    while not re.search(sentence, said["first"].read_text()) and time.monotonic() < end:
        time.sleep(0.1)
    assert re.search(sentence, said["first"].read_text())
    assert not (tmp_path / "shared" / "result.json").exists()

    for process, name in zip([*pair("again", "second again"), alone], ("again", "second again", "alone"), strict=True):
        assert process.wait(600) == 0, said[name].read_text()
    one, shared = rows(tmp_path / "one"), rows(tmp_path / "shared")
    assert [row["epoch"] for row in shared] == ["0", "1", "2"]
    assert "1 done" in said["again"].read_text()
    for ours, theirs in zip(shared, one, strict=True):
        for name in ROWS:
            assert float(ours[name]) == pytest.approx(float(theirs[name]), rel=2e-3, abs=0.006), name


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ((1, 0, "10.0.0.1:4000"), "hosts must be an integer of at least 2, not 1"),
        ((2, 2, "10.0.0.1:4000"), "host must be an integer from 0 to 1, not 2"),
        ((2, 0, "10.0.0.1"), "coordinator must be ADDRESS:PORT of host 0, such as 10.0.0.1:4200, not '10.0.0.1'"),
        ((2, 0, "10.0.0.1:99999"), "coordinator must be ADDRESS:PORT of host 0"),
        ((2, 0, "10.0.0.1:4000", 0), "wait must be a number of seconds above 0, not 0"),
    ],
)
def test_who_takes_part_is_checked(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        hosts.Hosts(*arguments)


def test_hosts_need_jax():
    with pytest.raises(ValueError, match="hosts=2 needs the JAX backend, not tensorflow"):
        hosts.join(hosts.Hosts(2, 0, "127.0.0.1:4000"), "a task")


def meet(*parties):
    """Lets hosts find each other, each in a thread; their errors, `None` where all is well."""
    errors = [None] * len(parties)

    def come(number, party, task):
        try:
            (hosts._gather if party.index == 0 else hosts._report)(party, task)
        except (ValueError, OSError) as error:
            errors[number] = error

    threads = [threading.Thread(target=come, args=(number, *each)) for number, each in enumerate(parties)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    return errors


def test_hosts_find_each_other_past_strangers():
    coordinator = f"127.0.0.1:{free_port()}"
    stranger = threading.Thread(target=knock, args=(coordinator,))
    stranger.start()
    assert meet(*((hosts.Hosts(3, number, coordinator, 20), "train") for number in (2, 0, 1))) == [None] * 3
    stranger.join()


def knock(coordinator):
    """Connects and says what no host says."""
    name, port = coordinator.split(":")
    for _ in range(100):
        try:
            with socket.create_connection((name, int(port)), timeout=1) as connection:
                connection.sendall(b"GET / HTTP/1.1\r\n")
                return
        except OSError:
            time.sleep(0.05)


def test_a_host_that_never_comes_is_named():
    coordinator = f"127.0.0.1:{free_port()}"
    first, second = meet(*((hosts.Hosts(4, number, coordinator, 1), "train") for number in (0, 2)))
    assert isinstance(first, TimeoutError) and str(first).startswith("hosts 1, 3 did not come within 1 seconds; start them with")
    assert str(second) == str(first)
    (alone,) = meet((hosts.Hosts(2, 1, coordinator, 0.5), "train"))
    assert str(alone) == f"host 0 did not answer at {coordinator} within 0.5 seconds; is it started?"


def test_hosts_must_be_about_to_do_the_same():
    coordinator = f"127.0.0.1:{free_port()}"
    errors = meet((hosts.Hosts(2, 0, coordinator, 20), "one recipe"), (hosts.Hosts(2, 1, coordinator, 20), "another"))
    assert {str(error) for error in errors} == {
        "host 1 was started with other settings than host 0; the command must be the same"
    }
    errors = meet((hosts.Hosts(2, 0, coordinator, 20), "train"), (hosts.Hosts(3, 1, coordinator, 20), "train"))
    assert all("a host came as number 1 of 3; each of 2 has a number of its own" in str(error) for error in errors)


def test_the_coordinator_s_port_must_be_free():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        coordinator = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(OSError, match="the coordinator's port .* cannot be opened: "):
            hosts._gather(hosts.Hosts(2, 0, coordinator, 1), "train")


def test_a_scheme_without_training_is_made_on_one_host(monkeypatch, tmp_path):
    scheme = next(name for name in schemes.names() if schemes.get(name).post_training)
    monkeypatch.setattr(hosts, "_joined", hosts.Hosts(2, 1, "127.0.0.1:4000"))
    monkeypatch.setattr(hosts, "barrier", lambda name: None)
    with pytest.raises(ValueError, match=f"the scheme '{scheme}' is not trained, so it is made on one host"):
        train(recipes.get("digits_acd_bit").replace(scheme=scheme), tmp_path / "run", verbose=0)
