"""Where gradients in bfloat16 are wrong."""

import tensorflow as tf

from common.errors import OptionError
from common.runtime import has_amx, has_avx512, onednn_in_force


def refuse_wrong_gradients(kernel: int, slices: int) -> None:
    """Refuse bfloat16 where TensorFlow's CPU kernels compute another gradient than asked for.

    Measured with TensorFlow 2.21: with AVX-512, oneDNN's gradient of a 3-D kernel that is deeper
    than its input is off by as much as its own size or not a number (it reads uninitialised
    memory): 3 x 3 x 3 over two slices, 5 x 5 x 5 over two to four. The other axes may be as short.
    With AMX another kernel serves, which is right, as are TensorFlow's own.

    Args:
        kernel: edge of the kernel along the first axis.
        slices: of the kernel's input along that axis.
    Raises:
        OptionError: there is no GPU and the gradient would be wrong.
    """
    if kernel <= slices or tf.config.list_physical_devices("GPU"):
        return
    if onednn_in_force() and has_avx512() and not has_amx():
        raise OptionError(
            "--mixed_precision: without a GPU or AMX, TensorFlow's bfloat16 gradients are wrong "
            f"for kernels of {kernel} slices where the network has {slices}; expected float32"
        )
