"""Training on several machines: a process on each, joined by `jax.distributed`.

The processes run one program over all their devices, each fed its part of every batch; what is written, host 0 writes. They
see one run folder, on a shared disk, and read from it what a run resumes from. If one is lost, the others end, too; the same
command on every machine goes on after the last finished epoch.

They first find each other over a plain socket: `jax.distributed` kills the process where one does not come, without a word
that helps. The sockets stay open, host 0 with every other, so that who is lost is known at once and by number, where collective
operations would wait for long. Or they end the process, too, from a thread of theirs that nothing can be caught in: so a second
process, which does nothing else, has the last word.

Not on TensorFlow: under its `MultiWorkerMirroredStrategy` `fit` of Keras 3.15 fails on the first batch, for it takes the parts of
the batch for a tensor.
"""

import atexit
import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zlib

import keras

from acdbit_keras import checks
from acdbit_keras.files import write_beside
from acdbit_keras.text import noun

# A host that is silent for so long is lost.
HEARTBEAT_SECONDS = 60
_SHUTDOWN_SECONDS = 10
_RETRY_SECONDS = 0.2
_WORD_SECONDS = 5


@dataclasses.dataclass(frozen=True)
class Hosts:
    """Who takes part in a training.

    Attributes:
        count: number of processes, usually one per machine.
        index: this one's, from 0; host 0 writes.
        coordinator: `ADDRESS:PORT` of host 0, free there and reachable from all.
        wait: seconds that the others may take to come.

    Raises:
        ValueError: an index or a coordinator that cannot be.
    """

    count: int
    index: int
    coordinator: str
    wait: float = 300.0

    def __post_init__(self):
        checks.integer("hosts", self.count, 2)
        checks.integer("host", self.index, 0, self.count - 1)
        found = re.fullmatch(r"(.+):(\d{1,5})", str(self.coordinator or ""))
        if not found or not 0 < int(found[2]) < 65536:
            raise ValueError(f"coordinator must be ADDRESS:PORT of host 0, such as 10.0.0.1:4200, not {self.coordinator!r}")
        if not self.wait > 0:
            raise ValueError(f"wait must be a number of seconds above 0, not {self.wait!r}")

    @property
    def address(self):
        """`(name, port)` of the coordinator."""
        name, _, port = self.coordinator.rpartition(":")
        return name.strip("[]"), int(port)


_AGAIN = "start all of them again with the same commands: the run goes on after its last finished epoch"
# Reads until the training process ends, and speaks if that said nothing before.
_LAST_WORD = f"""
import sys
if not sys.stdin.buffer.read():
    sys.exit("acdbit: this host or another was lost; {_AGAIN}")
"""

_joined = None
_connections = {}  # by number of the host at the other end


def index():
    """This process' number; 0 where there is only one."""
    return _joined.index if _joined else 0


def count():
    """Number of processes that train together."""
    return _joined.count if _joined else 1


def join(hosts, task):
    """Waits until all have come, and makes one program of them; to be called before JAX computes anything.

    Args:
        hosts: `Hosts`.
        task: what this process is about to do, a text: all must be about to do the same.

    Raises:
        ValueError: a backend other than JAX, or two hosts of one number or with different tasks.
        TimeoutError: some do not come in time; they are named.
        OSError: the coordinator's port cannot be opened.
    """
    global _joined
    if keras.config.backend() != "jax":
        raise ValueError(
            f"hosts={hosts.count} needs the JAX backend, not {keras.config.backend()}, on which Keras trains on one machine; "
            "set KERAS_BACKEND=jax in an environment with jax"
        )
    import jax

    last_word = subprocess.Popen([sys.executable, "-I", "-S", "-c", _LAST_WORD], stdin=subprocess.PIPE, start_new_session=True)
    atexit.register(_speak_for_oneself, last_word)
    connections = _gather(hosts, task) if hosts.index == 0 else {0: _report(hosts, task)}
    jax.distributed.initialize(
        coordinator_address=hosts.coordinator,
        num_processes=hosts.count,
        process_id=hosts.index,
        initialization_timeout=max(1, round(hosts.wait)),
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
    )
    _joined = hosts
    _connections.update(connections)
    for number, connection in connections.items():
        threading.Thread(target=_watch, args=(number, connection, last_word), daemon=True).start()


def leave():
    """Says that this host ends because it is done."""
    barrier("done")
    for connection in _connections.values():
        _send(connection, {"done": True})


def _speak_for_oneself(last_word):
    with contextlib.suppress(OSError, ValueError):
        last_word.stdin.write(b"said")
        last_word.stdin.close()
    last_word.wait()


def _watch(number, connection, last_word):
    """Ends the process when another host is lost."""
    connection.settimeout(None)
    said = _receive(connection)
    if isinstance(said, dict) and said.get("done"):
        return
    print(f"acdbit: host {number} was lost; {_AGAIN}", file=sys.stderr, flush=True)
    # Not before it is said: the process may be ended in between.
    _speak_for_oneself(last_word)
    os._exit(2)


def settle():
    """Waits until all devices of this host have computed what they were given.

    Two programs that need nothing of each other may run at once on a device, and what they send to other hosts then gets mixed
    up, which ends the process. A value that is read waits for one device only.
    """
    if _joined:
        import jax

        jax.block_until_ready(jax.live_arrays())


class Settled(keras.callbacks.Callback):
    """Settles wherever `fit` begins a program that does not need what the one before computes."""

    def on_epoch_begin(self, epoch, logs=None):
        settle()

    def on_test_begin(self, logs=None):
        settle()

    def on_test_end(self, logs=None):
        settle()


def barrier(name):
    """Waits for all hosts to reach the place of this name."""
    if _joined:
        here = zlib.crc32(name.encode())
        if _of_host_0(here) != here:
            raise RuntimeError(f"host {index()} has come to the barrier '{name}', host 0 to another")


def agreed(number):
    """Host 0's value of an integer of at most 32 bits."""
    return _of_host_0(number) if _joined else number


def _of_host_0(number):
    """Host 0's number, when the program that carries it has ended on all devices of this host."""
    import jax
    import numpy as np

    settle()
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()), ("device",))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("device"))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    said = jax.make_array_from_callback((mesh.size,), spread, lambda part: np.full(1, 0 if part[0].start else number, np.uint32))
    return int(jax.block_until_ready(jax.jit(jax.numpy.sum, out_shardings=everywhere)(said)).addressable_data(0))


def save(path, network):
    """Saves a network whose variables all hosts hold: on host 0 to a path, complete or not at all.

    The others save, too, and throw it away, for saving moves what is spread over all devices.
    """
    if index() == 0:
        write_beside(path, network.save)
        return
    with tempfile.TemporaryDirectory() as folder:
        network.save(pathlib.Path(folder) / path.name)


def lost(error):
    """Whether an error of the backend says that another host is gone."""
    return _joined is not None and type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError")


def own_part(batches):
    """This host's part of every batch of a `tf.data` pipeline, one after the other as the hosts are numbered."""
    if not _joined:
        return batches
    number, total = index(), count()

    def part(*arrays):
        size = arrays[0].shape[0] // total
        return tuple(array[number * size : (number + 1) * size] for array in arrays)

    return batches.map(part)


def _gather(hosts, task):
    """Host 0: hears every other one, and then tells each whether all is well; their connections by number."""
    end = time.monotonic() + hosts.wait
    try:
        server = socket.create_server(("", hosts.address[1]), reuse_port=False)
    except OSError as error:
        raise OSError(f"the coordinator's port {hosts.address[1]} cannot be opened: {error.strerror or error}") from error
    came, fault = {}, None
    with server:
        while len(came) < hosts.count - 1 and fault is None:
            server.settimeout(max(0.01, end - time.monotonic()))
            try:
                connection, _ = server.accept()
            except TimeoutError:
                fault = TimeoutError(
                    f"{_names(set(range(1, hosts.count)) - set(came))} did not come within {hosts.wait:g} seconds; "
                    "start them with the same command and their own --host"
                )
                break
            # Who connects and says nothing is none of ours.
            connection.settimeout(_WORD_SECONDS)
            said = _receive(connection)
            if not isinstance(said, dict) or "host" not in said:
                connection.close()
                continue
            number = said["host"]
            if said.get("hosts") != hosts.count or number in came or not 0 < number < hosts.count:
                fault = ValueError(
                    f"a host came as number {number} of {said.get('hosts')}; each of {hosts.count} has a number of its own"
                )
            elif said.get("task") != task:
                fault = ValueError(f"host {number} was started with other settings than host 0; the command must be the same")
            came.setdefault(number, []).append(connection)
    for connection in itertools.chain.from_iterable(came.values()):
        _send(connection, {"fault": fault and str(fault)})
        if fault:
            connection.close()
    if fault:
        raise fault
    return {number: connection for number, (connection,) in came.items()}


def _names(numbers):
    listed = ", ".join(map(str, sorted(numbers)))
    return f"{noun(len(numbers), 'host')} {listed}"


def _report(hosts, task):
    """Any other host: says that it is there, and hears whether all is well; the connection to host 0."""
    end = time.monotonic() + hosts.wait
    while True:
        left = end - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"host 0 did not answer at {hosts.coordinator} within {hosts.wait:g} seconds; is it started?")
        said = connection = None
        with contextlib.suppress(OSError):
            connection = socket.create_connection(hosts.address, timeout=left)
            _send(connection, {"host": hosts.index, "hosts": hosts.count, "task": task})
            # Host 0 may have begun to wait only now, and says itself who is missing.
            connection.settimeout(hosts.wait + _WORD_SECONDS)
            said = _receive(connection)
        if isinstance(said, dict) and said.get("fault", "") is None:
            return connection
        if connection:
            connection.close()
        if isinstance(said, dict) and said.get("fault"):
            raise ValueError(said["fault"])
        time.sleep(_RETRY_SECONDS)


def _send(connection, value):
    # Whoever left will be missed by all when they begin.
    with contextlib.suppress(OSError):
        connection.sendall(json.dumps(value).encode() + b"\n")


def _receive(connection):
    """One line of JSON, or `None`."""
    try:
        line = connection.makefile("rb").readline(65536)
        return json.loads(line) if line else None
    except (OSError, ValueError):
        return None
