"""The data of the contract between the exporter and the runtime."""

import hashlib

import pytest

from acdbit_keras import contract

pytestmark = pytest.mark.any_backend

ATTENTION = {"heads": 2, "key_bias": False, "dynamic": False}
BLOCK = {
    "heads": 2, "mlp_ratio": 4, "key_bias": False, "branches": False, "dynamic_activation": False, "dynamic_hidden": False,
    "dynamic_attention": False,
}  # fmt: skip


def test_files_of_version_1_keep_their_order():
    """Files hold tensors without names: whoever changes this data writes other files, which need another version."""
    # Depthwise mixing came later, as a further value of an option, which runtimes from before refuse.
    *vectors, added = contract.BLOCK_VECTORS
    assert added == ("depthwise", (9, "channels"), "branches", contract.Branches.DEPTHWISE)
    lists = (contract.ATTENTION_INPUTS, vectors, contract.BLOCK_KERNELS, contract.BLOCK_TAPS)
    numbers = (contract.VERSION, contract.WORD_BITS, *((rule.name, int(rule)) for rule in contract.Rule))
    text = repr([[tuple(part)[:3] for part in parts] for parts in lists]) + repr(numbers)
    assert [(kind.name, int(kind)) for kind in contract.Branches] == [("NONE", 0), ("POOLING", 1), ("DEPTHWISE", 2)]
    assert (contract.ATTENTION, contract.BLOCK) == ("AcdBinaryAttention", "AcdBinaryBlock")
    assert hashlib.sha256(text.encode()).hexdigest() == "df0b596db0ac64412dd2ecbf1872b9ac765d241787a5868b1b14c233816b6423"


def test_an_option_adds_its_inputs_and_no_others():
    plain = contract.attention_inputs(ATTENTION)
    assert plain == ["query", "key", "value", "score_scale", "value_scale", "value_offset", "probability_scale"]
    biased = contract.attention_inputs({**ATTENTION, "key_bias": True})
    assert [name for name in biased if name != "key_weights"] == plain and biased.index("key_weights") == 4
    dynamic = contract.attention_inputs({**ATTENTION, "dynamic": True})
    assert dynamic == [*plain, "query_scale", "query_offset", "key_scale", "key_offset"]


@pytest.mark.parametrize("option, floats", [
    ("key_bias", 64), ("branches", 6 * 64), ("dynamic_activation", 2 * (4 * 64 + 256)), ("dynamic_hidden", 2 * 64),
    ("dynamic_attention", 2 * 2),
])  # fmt: skip
def test_an_option_of_a_block_adds_its_vectors_and_moves_none(option, floats):
    plain, more = contract.block_vectors(BLOCK, 64), contract.block_vectors({**BLOCK, option: True}, 64)
    assert sum(more.values()) - sum(plain.values()) == floats
    assert [name for name in more if name in plain] == list(plain)


def test_depthwise_mixing_takes_the_place_of_the_pooling():
    pooled, mixed = (contract.block_vectors({**BLOCK, "branches": kind}, 64) for kind in list(contract.Branches)[1:])
    assert [name for name in mixed if name not in pooled] == ["depthwise"] and mixed["depthwise"] == 9 * 64
    assert [name for name in pooled if name not in mixed] == [name for name in pooled if name.startswith("pooling.")]


def test_packed_rows_are_words():
    assert [contract.words(bits) for bits in (0, 1, 32, 33, 64)] == [0, 1, 1, 2, 2]
    assert contract.block_kernels(BLOCK, 64)["mlp_1"] == (256, 2)
    assert contract.block_kernels(BLOCK, 64)["mlp_2"] == (64, 8)
    taps = contract.block_taps(BLOCK, 64, 33)
    assert taps["mlp_2.input"] == (33, 8) and taps["probabilities"] == (2, 33, 2)
