"""What several tests of trainings share."""

import pytest

from acdbit_keras.models import register_preset, sizes


@pytest.fixture(scope="module")
def one_block():
    """The preset `one_block_8`: what takes time with a network this small is its trace, soonest made of one block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sizes.registry, "registered", {})
        register_preset("one_block_8", image_size=8, patch_size=2, channels=1, width=32, depth=1, num_heads=1)
        yield
