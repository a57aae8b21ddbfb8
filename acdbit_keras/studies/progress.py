"""What is said while something long goes on: one line that says where it is, or a line for every step."""

import time


def speaker(quiet=False):
    """A function that prints a line at once; one that does nothing where it is to be quiet."""
    return (lambda text: None) if quiet else (lambda text: print(text, flush=True))


class Line:
    """A line of text that is drawn over itself on a terminal, and elsewhere once for every text.

    Args:
        stream: where to; `None` for nowhere.
    """

    _WIDTH = 119

    def __init__(self, stream):
        self.stream = stream
        self.terminal = stream is not None and stream.isatty()
        self.last = ""

    def write(self, text):
        """Draws a text in the line's place."""
        if self.stream is None or text == self.last:
            return
        if self.terminal:
            self.stream.write("\r" + text[: self._WIDTH].ljust(min(len(self.last), self._WIDTH)))
        else:
            self.stream.write(text + "\n")
        self.stream.flush()
        self.last = text

    def close(self):
        """Clears the line."""
        if self.terminal and self.last:
            self.stream.write("\r" + " " * min(len(self.last), self._WIDTH) + "\r")
            self.stream.flush()
        self.last = ""


class Bar(Line):
    """A bar that fills, on a terminal alone; to be called with the number of steps done and their total.

    Args:
        unit: what is counted, e.g. `"evaluations"`.
        stream: as for `Line`.
    """

    def __init__(self, unit, stream):
        super().__init__(stream)
        self.unit = unit

    def __call__(self, done, total):
        if self.terminal:
            filled = 30 * done // total
            self.write(f"[{'=' * filled}{' ' * (30 - filled)}] {done}/{total} {self.unit}")
            if done == total:
                self.stream.write("\n")


class Epochs(Line):
    """A bar over the epochs of a training run: on a terminal drawn over itself, elsewhere a line for every tenth of them.

    Args:
        stream: as for `Line`.
    """

    def __init__(self, stream):
        super().__init__(stream)
        self.name, self.start, self.first = None, None, None

    def __call__(self, name, done, total, metrics):
        """To be called at the end of every epoch, as `acdbit_keras.models.train.train` calls its `progress`."""
        now = time.monotonic()
        if name != self.name:
            # The first epoch compiles, and says nothing of the others.
            self.name, self.start, self.first = name, now, done
        if self.terminal or done == total or done * 10 // total > (done - 1) * 10 // total:
            filled = 20 * done // total
            line = f"     [{'=' * filled}{' ' * (20 - filled)}] epoch {done}/{total}"
            for key, called in (("accuracy", "training"), ("val_accuracy", "test")):
                line += f"  {called} {metrics[key]:.3f}" if key in metrics else ""
            if self.first < done < total:
                line += f"  {clock((now - self.start) / (done - self.first) * (total - done))} left"
            self.write(line)
        if self.terminal and done == total:
            self.stream.write("\n")
            self.last = ""


class Progress(Line):
    """Where a table of training runs is: the run, its epoch, the time that remains.

    Args:
        epochs: dict from name to the epochs that each run has, in the order of the runs.
        done: dict from name to the epochs that it had before.
        stream: as for `Line`.
    """

    def __init__(self, epochs, done=None, stream=None):
        super().__init__(stream)
        self.epochs = dict(epochs)
        self.done = {name: min((done or {}).get(name, 0), count) for name, count in self.epochs.items()}
        self.before = sum(self.done.values())
        self.start = time.monotonic()

    def show(self, name, epoch=None):
        """Draws the line of a run that has `epoch` finished epochs."""
        if epoch is not None:
            self.done[name] = min(epoch, self.epochs[name])
        number, count = list(self.epochs).index(name) + 1, len(self.epochs)
        line = f"{number} of {count}  {name}"
        if self.terminal:
            total = self.epochs[name]
            line += f"  epoch {min(self.done[name] + 1, total)} of {total}" if total else ""
            remaining = self.remaining()
            line += f"  {clock(remaining)} left" if remaining is not None else "  time left not known yet"
        self.write(line)

    def remaining(self):
        """Seconds for the epochs that are left at the pace of those finished here, `None` before the first."""
        finished = sum(self.done.values()) - self.before
        if not finished:
            return None
        return (sum(self.epochs.values()) - sum(self.done.values())) * (time.monotonic() - self.start) / finished


def clock(seconds):
    """Seconds as `1 h 05 min`, `12 min` or `40 s`."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
