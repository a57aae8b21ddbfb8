"""What is said about a model's cost: a row per layer, totals, the table."""

from __future__ import annotations

import dataclasses
from typing import Any

from acdbit_keras import text


@dataclasses.dataclass(frozen=True)
class LayerCost:
    """One layer.

    Attributes:
        name: its path in the model.
        kind: class.
        weight_bits: width of one stored weight; `None` without weights.
        activation_bits: width of its operands in the product; the widest of them for attention.
        output_shape: of one sample, of the first call; a tuple per output where there are several.
        parameters: weights in Keras, those of its quantizers and running statistics included.
        packed_bytes: bytes of its constants in the converted file: 1 bit per binary weight, per output channel in
            32-bit words along the input channels, and every float32 multiplier, bias, threshold or slope that is left
            after folding. What is equal in several layers is stored once and counted in the first, unless they are
            part of a block that becomes one op: there each vector belongs to the layer that it comes from.
        bit_macs: multiply-adds between two 1-bit operands, for one sample, over all calls.
        float_macs: all other multiply-adds of products.
    """

    name: str
    kind: str
    weight_bits: int | None
    activation_bits: int
    output_shape: tuple
    parameters: int
    packed_bytes: int
    bit_macs: int
    float_macs: int


@dataclasses.dataclass(frozen=True)
class Cost:
    """What `analyse` found.

    Attributes:
        model: name of the model.
        rows: `LayerCost`s of the layers with weights or products, in order of execution.
        file_bytes: predicted size of the converted `.tflite`: packed_bytes and what the graph itself takes.
        uncounted: names of layers of a class whose products are not known here; their MACs are given as 0.
        is_printed: whether its table was printed, which a notebook then does not do again.
    """

    model: str
    rows: tuple[LayerCost, ...]
    file_bytes: int
    uncounted: tuple = ()
    is_printed: bool = dataclasses.field(default=False, repr=False, compare=False)

    @property
    def parameters(self) -> int:
        return sum(row.parameters for row in self.rows)

    @property
    def packed_bytes(self) -> int:
        return sum(row.packed_bytes for row in self.rows)

    @property
    def bit_macs(self) -> int:
        return sum(row.bit_macs for row in self.rows)

    @property
    def float_macs(self) -> int:
        return sum(row.float_macs for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Everything in plain types, as `json.dumps` takes them."""
        totals = ("parameters", "packed_bytes", "bit_macs", "float_macs", "file_bytes")
        return {
            "model": self.model,
            "layers": [{**dataclasses.asdict(row), "output_shape": _listed(row.output_shape)} for row in self.rows],
            "totals": {name: getattr(self, name) for name in totals},
            "uncounted": list(self.uncounted),
        }

    def table(self) -> str:
        """The rows, totals and the file's size as text without a trailing newline."""
        header = ("layer", "kind", "bits w/a", "output shape", "parameters", "packed bytes", "bit-MACs", "float MACs")
        cells = [
            (
                row.name, row.kind, f"{row.weight_bits or '-'}/{row.activation_bits}", _shape_text(row.output_shape),
                *_numbers(row),
            )
            for row in self.rows
        ]  # fmt: skip
        lines = text.table(header, [*cells, ("total", "", "", "", *_numbers(self))], text_columns=4).splitlines()
        lines.insert(-1, "-" * max(map(len, lines)))
        lines.append(f"converted file: about {self.file_bytes / 1e6:.3f} MB")
        if self.uncounted:
            lines.append(f"products, if any, not counted: {', '.join(self.uncounted)}")
        return "\n".join(lines)

    def __str__(self):
        return self.table()

    def _ipython_display_(self):
        """What a notebook shows of the last line of a cell."""
        if not self.is_printed:
            print(self.table())


def _numbers(costs):
    return [f"{value:,}" for value in (costs.parameters, costs.packed_bytes, costs.bit_macs, costs.float_macs)]


def _listed(shape):
    return [_listed(size) if isinstance(size, tuple) else size for size in shape]


def _shape_text(shape):
    if any(isinstance(size, tuple) for size in shape):
        return " + ".join(map(_shape_text, shape))
    return "x".join(map(str, shape))
