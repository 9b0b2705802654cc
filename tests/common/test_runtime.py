"""How TensorFlow starts: oneDNN, threads, and what is said of both."""

import os
import re
import subprocess
import sys

import pytest

from common.errors import OptionError
from common.papers import ROOT
from common.runtime import (
    THREADS,
    check_environment,
    gpu_libraries,
    gpu_notes,
    has_avx512,
    has_native_bfloat16,
    instruction_set,
    limit_threads,
    threads_wanted,
    usable_cores,
)

ZEN3 = {"sse4_1", "avx", "avx2", "fma", "f16c"}
SKYLAKE = ZEN3 | {"avx512f", "avx512bw", "avx512vl", "avx512dq"}
SAPPHIRE_RAPIDS = SKYLAKE | {
    "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16",
}  # fmt: skip

CONVOLVE = """
{first}
import json
import tensorflow as tf
from common.runtime import instruction_set, onednn_in_force
image, kernel = tf.ones((1, 8, 8, 8, 8)), tf.ones((3, 3, 3, 8, 8))
tf.nn.conv3d(image, kernel, [1] * 5, "SAME")
print(json.dumps([onednn_in_force(), instruction_set()]))
"""


def start(first="import fetal_brain", **environment):
    """Return whether oneDNN is in force, our word for its instructions, its own, and its output."""
    surroundings = {**os.environ, "ONEDNN_VERBOSE": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}
    surroundings.pop("TF_ENABLE_ONEDNN_OPTS")
    done = subprocess.run(
        [sys.executable, "-c", CONVOLVE.format(first=first)],
        env=surroundings | environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    said = re.search(r"info,cpu,isa:(.*)", done.stdout)
    in_force, ours = re.search(r'\[(true|false), "(.*)"\]', done.stdout).groups()
    return in_force == "true", ours, said[1].strip(), done.stdout


class TestOnednn:
    @pytest.mark.slow
    def test_is_on_for_whoever_imports_a_paper_and_named_as_it_names_itself(self):
        in_force, ours, said, output = start()
        assert in_force
        assert "exec,cpu,convolution" in output
        assert ours == said

    @pytest.mark.slow
    def test_a_limited_level_is_named_too(self):
        in_force, ours, said, _ = start(ONEDNN_MAX_CPU_ISA="AVX2")
        assert in_force
        assert ours == said == "Intel AVX2"

    @pytest.mark.slow
    def test_the_users_word_wins(self):
        """TensorFlow's own convolution takes oneDNN's matrix product all the same."""
        in_force, ours, said, output = start(TF_ENABLE_ONEDNN_OPTS="0")
        assert not in_force
        assert "exec,cpu,convolution" not in output
        assert ours == said

    @pytest.mark.parametrize("value", ["maybe", "2", "on"])
    def test_another_word_is_refused(self, value, monkeypatch):
        monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", value)
        with pytest.raises(OptionError, match=f"TF_ENABLE_ONEDNN_OPTS is '{value}'; expected 0 or"):
            check_environment()


@pytest.mark.slow
def test_the_users_settings_of_keras_do_not_matter(tmp_path):
    """Labels changed with the axes, and importing Keras failed with words it does not know."""
    content = '{"floatx": "float8", "image_data_format": "channels_first", "backend": "nonsense"}'
    (tmp_path / ".keras").mkdir()
    (tmp_path / ".keras" / "keras.json").write_text(content)
    ask = "import common, keras; print(keras.config.floatx(), keras.config.image_data_format())"
    environment = {k: v for k, v in os.environ.items() if k != "KERAS_HOME"}
    done = subprocess.run(
        [sys.executable, "-c", ask], capture_output=True, text=True, check=True,
        env=environment | {"HOME": str(tmp_path), "KERAS_BACKEND": "tensorflow"},
    )  # fmt: skip
    assert done.stdout.split() == ["float32", "channels_last"]


class TestInstructionSet:
    @pytest.mark.parametrize(
        ("flags", "limit", "name", "avx512", "bfloat16"),
        [
            (set(), "", "unknown", False, False),
            (ZEN3, "", "Intel AVX2", False, False),
            (ZEN3 | {"avx_vnni"}, "", "Intel AVX2 with Intel DL Boost", False, False),
            (SKYLAKE, "", "Intel AVX-512 with AVX512BW, AVX512VL, and AVX512DQ extensions",
             True, False),
            (SKYLAKE | {"avx512_vnni", "avx512_bf16"}, "",
             "Intel AVX-512 with Intel DL Boost and bfloat16 support", True, True),
            (SAPPHIRE_RAPIDS, "AVX2", "Intel AVX2", False, False),
            (SAPPHIRE_RAPIDS, "avx512_core_vnni", "Intel AVX-512 with Intel DL Boost", True, False),
            (ZEN3, "AVX512_CORE", "Intel AVX2", False, False),
            (ZEN3, "nonsense", "Intel AVX2", False, False),
        ],
    )  # fmt: skip
    def test_is_the_highest_level_reached_and_allowed(self, flags, limit, name, avx512, bfloat16):
        environment = {"ONEDNN_MAX_CPU_ISA": limit}
        assert instruction_set(flags, environment) == name
        assert has_avx512(flags, environment) is avx512
        assert has_native_bfloat16(flags, environment) is bfloat16


class TestThreads:
    @pytest.fixture(autouse=True)
    def nothing_set(self, monkeypatch):
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        monkeypatch.setenv(THREADS, "")

    def test_all_usable_cores_by_default(self):
        assert threads_wanted() == usable_cores()

    def test_the_option_wins_over_the_variable(self, monkeypatch):
        monkeypatch.setenv("OMP_NUM_THREADS", str(usable_cores()))
        limit_threads(1)
        assert threads_wanted() == 1

    def test_the_variable_counts(self, monkeypatch):
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        assert threads_wanted() == 1

    @pytest.mark.parametrize("value", ["0", "-1", "10000", "two", "1.5"])
    def test_other_numbers_are_refused(self, value, monkeypatch):
        monkeypatch.setenv("OMP_NUM_THREADS", value)
        with pytest.raises(OptionError, match=f"OMP_NUM_THREADS is {value}; expected 1 to "):
            threads_wanted()

    @pytest.mark.parametrize("value", [0, -1, 10000])
    def test_options_are_refused(self, value):
        with pytest.raises(OptionError, match=f"--threads is {value}; expected 1 to "):
            limit_threads(value)


@pytest.mark.parametrize("backend", ["jax", "nonsense"])
@pytest.mark.slow
def test_the_users_backend_of_keras_does_not_matter(backend):
    """It ended every command in a traceback out of `import tensorflow`."""
    code = (
        "from common.runtime import load_tensorflow_quietly as load; load(); "
        "import keras; print(keras.backend.backend())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("tensorflow\n", "")


@pytest.mark.slow
@pytest.mark.parametrize("imports", ["import {}, keras", "import keras, {}"])
def test_importing_a_paper_registers_its_layers_with_keras(imports):
    """In either order; before Keras, a package brings nothing heavy with it."""
    wanted = ["dhcp_fetal>ChannelBias", "raseg>CropToSkip", "sarcoma>MaxoutConv2D",
              "vertebra>Block"]  # fmt: skip
    papers = ", ".join(name.partition(">")[0] for name in wanted)
    code = (
        f"import sys\nimport {papers if imports.startswith('import {}') else 'common'}\n"
        f"assert 'keras' not in sys.modules and 'tensorflow' not in sys.modules\n"
        f"{imports.format(papers)}\n"
        f"print(*(keras.saving.get_registered_object(name).__name__ for name in {wanted}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == [name.partition(">")[2] for name in wanted], done.stderr


def test_pydicom_is_loaded_by_what_reads_dicom_alone():
    """nibabel took it along into the start-up of every command, for a quarter of its time."""
    code = (
        "import sys, common.data.volumes\nassert 'pydicom' not in sys.modules\n"
        "import common.data.dicom\nprint(sys.modules['pydicom'].__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "pydicom\n", done.stderr


def test_what_is_known_to_be_wrong_with_a_gpu_is_said():
    """cuDNN 9.8 to 9.12 in bfloat16 (fixed in 9.15), and cards without kernels in the wheels."""

    def notes(cudnn, *capabilities, bfloat16=True):
        return gpu_notes({"cudnn": cudnn}, capabilities, bfloat16=bfloat16)

    (said,) = notes("9.10.2", (9, 0))
    assert said.startswith("cuDNN 9.10.2: versions 9.8 to 9.12 compute bfloat16")
    assert notes("9.10.2", (9, 0), bfloat16=False) == notes("9.7.1", (9, 0)) == []
    assert notes("9.15.0", (9, 0)) == notes(None, None) == []
    (said,) = notes("9.15.0", (12, 0), (12, 0), (8, 0))
    assert "compute capability 12.0" in said
    assert "CUDA_ERROR_INVALID_PTX" in said


def test_libraries_that_are_not_there_are_unknown():
    found = gpu_libraries({"cuda_version": "12.5.1"})
    assert set(found) == {"cuda", "cudnn", "driver"}
    assert found["cuda"] == "12.5.1"
