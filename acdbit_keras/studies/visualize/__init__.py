"""Five views into trained models, on real test images.

    acdbit visualize runs/teacher runs/binary_vit runs/acd_bit --out views

Distributions of float, binary and aligned features with their divergence and the measured share of +1; the features in
the plane; Eigen-CAM maps; the attention matrix, float against binary; its quantization error. A float teacher is shown
wherever a view makes sense for it.
"""

from acdbit_keras.studies.visualize.views import run, table

__all__ = ["run", "table"]
