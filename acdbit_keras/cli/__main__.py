"""`python -m acdbit_keras.cli`, the same as `acdbit`."""

import sys

from acdbit_keras.cli import script

if __name__ == "__main__":
    sys.exit(script())
