import sys

from acdbit_keras.cli import main

sys.exit(main())
