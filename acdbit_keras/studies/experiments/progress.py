"""One line that says where a table is: the run, its epoch, the time that remains."""

import sys
import time


class Progress:
    """Draws the line; on a terminal over itself, elsewhere once for every run.

    Args:
        epochs: dict from name to the epochs that each run has, in the order of the runs.
        done: dict from name to the epochs that it had before.
        stream: where to; `None` for nowhere.
    """

    def __init__(self, epochs, done=None, stream=sys.stderr):
        self.epochs = dict(epochs)
        self.done = {name: min((done or {}).get(name, 0), count) for name, count in self.epochs.items()}
        self.before = sum(self.done.values())
        self.start = time.monotonic()
        self.stream = stream
        self.terminal = stream is not None and stream.isatty()
        self.last = ""

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

    def write(self, line):
        """Draws another text in the line's place."""
        if self.stream is None or line == self.last:
            return
        if self.terminal:
            self.stream.write("\r" + line[:119].ljust(min(len(self.last), 119)))
        else:
            self.stream.write(line + "\n")
        self.stream.flush()
        self.last = line

    def close(self):
        if self.terminal and self.last:
            self.stream.write("\r" + " " * min(len(self.last), 119) + "\r")
            self.stream.flush()
        self.last = ""


def clock(seconds):
    """Seconds as `1 h 05 min`, `12 min` or `40 s`."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
