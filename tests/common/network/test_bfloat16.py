"""bfloat16 on a CPU: gradients that are right, refused, or slow and said to be."""

import json
import os
import subprocess
import sys

import pytest
import tensorflow as tf

from common.errors import OptionError
from common.network.bfloat16 import refuse_wrong_gradients
from common.runtime import has_amx, has_avx512

pytestmark = pytest.mark.skipif(
    bool(tf.config.list_physical_devices("GPU")), reason="with a GPU nothing is refused"
)
avx512 = pytest.mark.skipif(
    not has_avx512(environment={}), reason="a limit below AVX-512 needs a processor above it"
)
SHAPES = [(3, 2), (3, 3), (3, 8), (5, 2), (5, 3), (5, 4), (5, 5), (1, 1)]

COMPARE = """
import json
import common
import tensorflow as tf
found = []
for kernel, slices in json.loads({shapes!r}):
    draw = tf.random.Generator.from_seed(kernel * 10 + slices).normal
    image, kernels = draw((1, slices, 4, 4, 32)), draw((kernel, kernel, kernel, 32, 32))
    gradients = []
    for dtype in (tf.bfloat16, tf.float32):
        x, k = (tf.cast(tf.cast(part, tf.bfloat16), dtype) for part in (image, kernels))
        with tf.GradientTape() as tape:
            tape.watch(k)
            y = tf.reduce_sum(tf.square(tf.nn.conv3d(x, k, [1] * 5, "SAME") / 64))
        gradients.append(tf.cast(tape.gradient(y, k), tf.float32))
    rounded, right = gradients
    found.append(float(tf.reduce_max(tf.abs(rounded - right)) / tf.reduce_max(tf.abs(right))))
print(json.dumps(found))
"""

CONFIGURE = """
import common
from common.errors import OptionError
from common.runtime import configure_runtime
try:
    print(configure_runtime(seed=0, mixed_precision=True)["precision"])
except OptionError as problem:
    print(problem)
"""


def run(code, **environment):
    """Return what a Python process prints on stdout and stderr."""
    surroundings = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
    done = subprocess.run([sys.executable, "-c", code], env=surroundings, capture_output=True,
                          text=True, check=True)  # fmt: skip
    return done.stdout.strip(), done.stderr


def is_refused(kernel, slices):
    try:
        refuse_wrong_gradients(kernel, slices)
    except OptionError:
        return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize("limit", ["", pytest.param("AVX512_CORE", marks=avx512)])
def test_gradients_that_are_not_refused_are_right(limit, monkeypatch):
    """Two units of the last place of bfloat16; the wrong ones are off by their own size."""
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    trusted = [shape for shape in SHAPES if not is_refused(*shape)]
    assert {(3, 3), (3, 8), (5, 5), (1, 1)} <= set(trusted)
    output, _ = run(COMPARE.format(shapes=json.dumps(trusted)))
    assert json.loads(output) == pytest.approx([0.0] * len(trusted), abs=2**-7)


@avx512
def test_deep_kernels_are_refused_without_amx(monkeypatch):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE")
    with pytest.raises(OptionError, match="kernels of 3 slices where the network has 2; expected"):
        refuse_wrong_gradients(3, 2)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "")
    assert is_refused(3, 2) is not has_amx()


@avx512
@pytest.mark.slow
def test_it_is_said_where_bfloat16_is_slow():
    printed, errors = run(CONFIGURE, ONEDNN_MAX_CPU_ISA="AVX512_CORE")
    assert printed == "mixed_bfloat16"
    assert "note: --mixed_precision is slow here" in errors
    assert "(oneDNN, Intel AVX-512 with AVX512BW, AVX512VL, and AVX512DQ extensions)" in errors


@pytest.mark.slow
def test_without_onednn_bfloat16_is_slow():
    printed, errors = run(CONFIGURE, TF_ENABLE_ONEDNN_OPTS="0")
    assert printed == "mixed_bfloat16"
    assert "(TF_ENABLE_ONEDNN_OPTS=0)" in errors


@avx512
@pytest.mark.slow
def test_below_avx512_a_limit_of_onednn_excludes_bfloat16():
    """TensorFlow would choose oneDNN, which has no such convolution there, and fail."""
    printed, _ = run(CONFIGURE, ONEDNN_MAX_CPU_ISA="AVX2", TF_ENABLE_ONEDNN_OPTS="1")
    assert "oneDNN is limited to Intel AVX2 by ONEDNN_MAX_CPU_ISA" in printed
