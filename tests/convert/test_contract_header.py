"""The contract in C++, and what of it a machine without Keras can use."""

import subprocess
import sys

from acdbit_keras.convert.runtime import contract_header


def test_the_committed_header_is_the_generated_one():
    command = "python -m acdbit_keras.convert.runtime.contract_header"
    assert contract_header.PATH.read_text() == contract_header.text(), f"{contract_header.PATH} is old: {command}"
    assert command in contract_header.text().splitlines()[0]


def test_files_are_read_and_edited_without_keras():
    program = (
        "import sys\n"
        "import acdbit_keras.contract, acdbit_keras.convert.rewrite, acdbit_keras.convert.runtime.contract_header\n"
        "assert not {'keras', 'tensorflow'} & set(sys.modules), 'too much is imported'\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
