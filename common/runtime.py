"""How every process of the suite starts TensorFlow and on what it computes.

`common/__init__.py` imports this before anything can import TensorFlow, which reads its environment
once: commands, worker processes, tests and notebooks all start the same way. Nothing heavy is
imported here until a function needs it.
"""

import ctypes
import gc
import json
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from common.errors import OptionError

ONEDNN = "TF_ENABLE_ONEDNN_OPTS"
"""TensorFlow's switch. Left alone it is on only where a processor has AVX512-VNNI or AMX; elsewhere
3-D convolutions then take several times as long."""
ONEDNN_VALUES = {"0": False, "false": False, "1": True, "true": True}
THREADS = "SEGMENTATION_THREADS"
"""What `--threads` tells the processes that a command starts."""

NEEDLESS = ("matplotlib", "pandas", "scipy", "scipy.sparse", "sklearn")
"""TensorFlow and Keras import these where they find them, for galleries of pictures, data frames,
sparse matrices and wrappers that nothing here uses: a third of their start-up. nibabel imports
scipy, without its parts, before."""

KERAS_NAMES = ("keras", "tf_keras")

Strategy = Literal["mirrored", "multiworker"]
"""How several devices share a training: those of one machine, or those of several processes."""
SECONDS_TO_MEET = 300
"""A worker waits so long at the beginning for the others."""

INSTRUCTION_SETS = (
    ("SSE41", {"sse4_1"}, "Intel SSE4.1"),
    ("AVX", {"avx"}, "Intel AVX"),
    ("AVX2", {"avx2", "fma"}, "Intel AVX2"),
    ("AVX2_VNNI", {"avx_vnni"}, "Intel AVX2 with Intel DL Boost"),
    ("AVX512_CORE", {"avx512f", "avx512bw", "avx512vl", "avx512dq"},
     "Intel AVX-512 with AVX512BW, AVX512VL, and AVX512DQ extensions"),
    ("AVX512_CORE_VNNI", {"avx512_vnni"}, "Intel AVX-512 with Intel DL Boost"),
    ("AVX512_CORE_BF16", {"avx512_bf16"}, "Intel AVX-512 with Intel DL Boost and bfloat16 support"),
    ("AVX512_CORE_FP16", {"avx512_fp16"},
     "Intel AVX-512 with float16, Intel DL Boost and bfloat16 support"),
    ("AVX512_CORE_AMX", {"amx_tile", "amx_int8", "amx_bf16"},
     "Intel AVX-512 with float16, Intel DL Boost and bfloat16 support and Intel AMX with bfloat16 "
     "and 8-bit integer support"),
)  # fmt: skip
"""oneDNN's levels, lowest first: its name of the limit, the processor's flags (with those of the
levels below), and the words with which oneDNN reports it. AVX2_VNNI is left out by processors that
go from AVX2 to AVX-512 directly."""
OPTIONAL_LEVEL = "AVX2_VNNI"
LEVELS = [name for name, _, _ in INSTRUCTION_SETS]

# For this process and those it starts.
if not os.environ.get(ONEDNN):  # unless the user decided
    os.environ[ONEDNN] = "1"
# Where Keras finds no keras.json, which may say float16 or channels first, and writes none.
os.environ["KERAS_HOME"] = os.devnull


def check_environment() -> None:
    """Raise `OptionError` for settings that TensorFlow would pass over with an unseen notice."""
    value = os.environ.get(ONEDNN, "")
    if value and value.lower() not in ONEDNN_VALUES:
        raise OptionError(f"{ONEDNN} is {value!r}; expected 0 or 1")
    threads_wanted()


def load_tensorflow_quietly() -> None:
    """Import TensorFlow without its start-up notices on stderr, where the user's own lines belong.

    Some are written by C++ code before any setting is read, so the file descriptor itself is
    turned away for that while; errors of the import are exceptions and are seen. It is quick, too:
    about half of the usual processor time.

    Raises:
        OptionError: see `check_environment`.
    """
    check_environment()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["KERAS_BACKEND"] = "tensorflow"  # whatever the user has for other programs
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        with _hidden(NEEDLESS), _uncollected():
            import tensorflow as tf

        tf.config.list_physical_devices()  # the search for a GPU has notices of its own
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextmanager
def _hidden(packages: tuple[str, ...]) -> Iterator[None]:
    """Let imports of these packages fail for a while, as where they are not installed."""
    absent = [name for name in packages if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keep the garbage collector away from what is imported, which lives to the end anyway."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collecting:
            gc.enable()


class _OnImport(MetaPathFinder):
    """Finds a package as Python does, and lets a function of ours run its code, once."""

    def __init__(self, package: str, run: Callable[[Callable, ModuleType], None]):
        self.package, self.run = package, run

    def find_spec(self, name, path=None, target=None):
        """Return nothing but for the package itself."""
        if name != self.package:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module
        spec.loader.exec_module = lambda module: self.run(execute, module)
        return spec


def import_with_keras(module: str) -> None:
    """Import a module of registered layers now, or as soon as something imports Keras.

    So `import <paper>` is all that `keras.saving.load_model` needs, and still loads nothing:
    `--help` stays quick, and TensorFlow starts as the options say, which are read later.
    """

    def run_and_register(execute: Callable, keras: ModuleType) -> None:
        execute(keras)
        import_module(module)

    if sys.modules.get("keras"):
        import_module(module)
    else:
        sys.meta_path.insert(0, _OnImport("keras", run_and_register))


def _run_without_pydicom(execute: Callable, nibabel: ModuleType) -> None:
    with _hidden(("pydicom",)):
        execute(nibabel)


# nibabel loads pydicom where it finds it, for a kind of header extension: a quarter of the start-up
# of every command, of which `common.data.dicom` alone has any use.
if "nibabel" not in sys.modules:
    sys.meta_path.insert(0, _OnImport("nibabel", _run_without_pydicom))


def forbid_keras() -> None:
    """Make every later import of Keras in this process raise, TensorFlow's own included."""
    for name in KERAS_NAMES:
        if sys.modules.get(name) is not None:
            raise RuntimeError(f"{name} is already imported in the process that must not need it")
        sys.modules[name] = None


def configure_runtime(
    *,
    seed: int,
    deterministic: bool | None = None,
    mixed_precision: bool = False,
    intra_op_threads: int | None = None,
    strategy: Strategy | None = None,
) -> dict:
    """Seed everything and fix what decides the bits; call before anything else uses TensorFlow.

    Op determinism alone does not make 3-D batch normalisation repeatable on a CPU: it also takes
    a single inter-op thread, and the same number of intra-op threads each time.

    Args:
        seed: of Python, numpy and Keras; 0 to 2**32 - 1.
        deterministic: op determinism and one inter-op thread; None: on a CPU, where they cost
            nothing, and not on a GPU, where Keras refuses XLA under the first. TensorFlow cannot
            take it back within a process.
        mixed_precision: bfloat16 arithmetic with float32 variables.
        intra_op_threads: threads within one operation; None: see `threads_wanted`. A run gives
            the same bits only with the same number.
        strategy: let several devices share what is trained from here on, in the whole process: all
            variables made after this call are theirs. Without GPUs, one thread is then the default
            within an operation, so that it does not depend on a machine's cores.
    Returns:
        What is really in force, plain: seed, deterministic, inter_op_threads, intra_op_threads
        (0: TensorFlow's choice), onednn (bool), instruction_set (in oneDNN's words; its matrix
        product serves TensorFlow's own kernels as well), precision (the Keras policy), gpus
        (names), gpu_libraries (see there; None without a GPU), tensor_float_32 (likewise), xla, and
        `notes` on what could not be done.
        `xla` is what the paper passes to `model.compile(jit_compile=...)`: True on a GPU without
        op determinism (Keras refuses XLA under it), False on a CPU, where XLA is 5 to 12 times
        slower.
    Raises:
        OptionError: `seed` is out of range, or bfloat16 cannot be computed; see
            `check_environment`.
    """
    if not 0 <= seed < 2**32:
        raise OptionError(f"--seed is {seed}; expected 0 to {2**32 - 1}")
    check_environment()
    import keras
    import tensorflow as tf

    # TensorFlow has no public question for it; Keras asks the same way.
    from tensorflow.python.framework.config import is_op_determinism_enabled

    notes = []
    gpus = tf.config.list_physical_devices("GPU")
    if deterministic is None:
        deterministic = not gpus
    threads = tf.config.threading
    if deterministic:
        notes += _set_threads("inter_op", threads.set_inter_op_parallelism_threads, 1)
    wanted = intra_op_threads or threads_wanted(1 if strategy and not gpus else None)
    notes += _set_threads("intra_op", threads.set_intra_op_parallelism_threads, wanted)
    shared = _start_strategy(tf, strategy)  # before anything else that starts TensorFlow
    keras.utils.set_random_seed(seed)
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    if mixed_precision and not gpus:
        _check_bfloat16()
    keras.config.set_dtype_policy("mixed_bfloat16" if mixed_precision else "float32")

    op_determinism = is_op_determinism_enabled()
    if op_determinism and not deterministic:
        notes.append("op determinism was switched on before and stays on")
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    libraries = gpu_libraries(tf.sysconfig.get_build_info()) if gpus else None
    if gpus:
        capabilities = [each.get("compute_capability") for each in details]
        known = gpu_notes(libraries, capabilities, bfloat16=mixed_precision)
        for note in known:
            print(f"note: {note}", file=sys.stderr)
        notes += known
    inter_op = threads.get_inter_op_parallelism_threads()
    return {
        "seed": seed,
        "deterministic": op_determinism and inter_op == 1,
        "inter_op_threads": inter_op,
        "intra_op_threads": threads.get_intra_op_parallelism_threads(),
        "onednn": onednn_in_force(),
        "instruction_set": instruction_set(),
        "precision": keras.config.dtype_policy().name,
        "gpus": [
            each.get("device_name", gpu.name) for gpu, each in zip(gpus, details, strict=True)
        ],
        "gpu_libraries": libraries,
        "tensor_float_32": (
            tf.config.experimental.tensor_float_32_execution_enabled() if gpus else None
        ),
        "xla": bool(gpus) and not op_determinism and not strategy,
        "notes": notes,
        **shared,
    }


def worker_of(
    strategy: Strategy | None, environment: Mapping[str, str] = os.environ
) -> tuple[int, int]:
    """Return the number of this process among the workers of a training, and how many there are.

    They are named by TF_CONFIG, or else by what Slurm says of a job step. Worker 0, the chief,
    alone writes into the run folder.

    Raises:
        OptionError: the strategy is "multiworker", and neither names the workers rightly.
    """
    if strategy != "multiworker":
        return 0, 1
    if text := environment.get("TF_CONFIG"):
        try:
            config = json.loads(text)
            (workers,) = config["cluster"].values()
            number, kind = config["task"]["index"], config["task"]["type"]
            if config["cluster"] != {kind: workers} or not workers[: number + 1][number]:
                raise ValueError
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            raise OptionError(
                f'TF_CONFIG is {text[:200]}; expected {{"cluster": {{"worker": ["host:port", ...]}}'
                ', "task": {"type": "worker", "index": 0}}, each worker with its own index'
            ) from None
        return number, len(workers)
    try:
        return int(environment["SLURM_PROCID"]), int(environment["SLURM_STEP_NUM_TASKS"])
    except (KeyError, ValueError):
        raise OptionError(
            "--strategy multiworker: found neither TF_CONFIG nor the variables of a job step of "
            "Slurm; expected one of them for every worker (srun sets the latter)"
        ) from None


def _start_strategy(tf: Any, strategy: Strategy | None) -> dict:
    """Make a strategy the one of the whole process; return what the manifest says of it."""
    if strategy is None:
        return {}
    number, workers = worker_of(strategy)
    if tf.distribute.has_strategy():  # an earlier training in this process has made it
        chosen = tf.distribute.get_strategy()
    elif strategy == "mirrored":
        # Without GPUs these are the logical devices that a test has made of the processor.
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        chosen = tf.distribute.MirroredStrategy([device.name for device in devices])
    else:
        chosen = _meet_workers(tf, number, workers)
    tf.distribute.experimental_set_strategy(chosen)
    return {"strategy": strategy, "workers": workers, "replicas": chosen.num_replicas_in_sync}


def _meet_workers(tf: Any, number: int, workers: int) -> Any:
    """Return the strategy of several workers as soon as all of them are there."""
    resolvers = tf.distribute.cluster_resolver
    try:
        if text := os.environ.get("TF_CONFIG"):
            ((kind, addresses),) = json.loads(text)["cluster"].items()
            resolver = resolvers.TFConfigClusterResolver()
        else:
            # A port by the job, since jobs share nodes. Slurm gives each task its GPUs, which
            # TensorFlow sees by itself; the numbers here must only suffice for every task.
            port = 20000 + int(os.environ.get("SLURM_JOB_ID", 0)) % 10000
            found = resolvers.SlurmClusterResolver(
                port_base=port, gpus_per_node=workers, gpus_per_task=1, auto_set_gpu=False
            )
            cluster = found.cluster_spec()
            kind, addresses = found.task_type, cluster.job_tasks(found.task_type)
            resolver = resolvers.SimpleClusterResolver(cluster, task_type=kind, task_id=number)
        wait_for_workers(addresses, number, SECONDS_TO_MEET)
        return tf.distribute.MultiWorkerMirroredStrategy(resolver)
    except (RuntimeError, ValueError, OSError, tf.errors.OpError) as failure:
        reason = " ".join(str(failure).split())[:300]
        raise OptionError(
            f"--strategy multiworker: worker {number} of {workers} could not meet the others "
            f"({reason}); expected the same command for all of them at the same time"
        ) from failure


def wait_for_workers(addresses: Sequence[str], number: int, seconds: float) -> None:
    """Return as soon as this worker has reached all others and all others this one.

    TensorFlow would wait without an end and take no signal meanwhile.

    Args:
        addresses: "host:port" of all workers.
        number: of this one among them.
        seconds: to wait at most.
    Raises:
        TimeoutError: not all are there.
        OSError: this worker's port is in use.
    """
    places = [(host, int(port)) for host, _, port in (each.rpartition(":") for each in addresses)]
    others = {other for other in range(len(places)) if other != number}
    reached, seen, end = set(), set(), time.monotonic() + seconds
    with socket.create_server(("", places[number][1])) as server:
        server.settimeout(0.2)
        while reached != others or seen != others:
            if time.monotonic() > end:
                missing = ", ".join(addresses[other] for other in sorted(others - (reached & seen)))
                raise TimeoutError(f"after {seconds:.0f} s without {missing}")
            for other in others - reached:
                with suppress(OSError), socket.create_connection(places[other], 1) as link:
                    link.sendall(f"worker {number}\n".encode())
                    reached.add(other)
            with suppress(OSError):  # nobody within the server's patience
                link = server.accept()[0]
                with link:
                    link.settimeout(1)
                    if said := re.fullmatch(rb"worker (\d+)\n", link.recv(64)):
                        seen.add(int(said[1]))


def gpu_libraries(build: Mapping[str, object]) -> dict[str, str | None]:
    """Return the versions of what a GPU computes with: CUDA as TensorFlow was built for (`build` is
    its `get_build_info`), cuDNN as it is loaded, and the driver; None where one does not say."""
    cudnn = driver = None
    with suppress(OSError, AttributeError):
        number = ctypes.CDLL("libcudnn.so.9").cudnnGetVersion()  # 91002 is 9.10.2
        cudnn = f"{number // 10000}.{number // 100 % 100}.{number % 100}"
    with suppress(OSError):
        text = Path("/proc/driver/nvidia/version").read_text()
        found = re.search(r"Kernel Module\D*([\d.]+)", text)
        driver = found and found[1]
    return {"cuda": build.get("cuda_version"), "cudnn": cudnn, "driver": driver}


def gpu_notes(
    libraries: Mapping[str, str | None], capabilities: Sequence[tuple[int, int] | None], *,
    bfloat16: bool,
) -> list[str]:  # fmt: skip
    """Return what is known to go wrong with a GPU's libraries, a sentence each.

    cuDNN 9.8 to 9.12 give wrong bfloat16 convolutions of large volumes (pytorch issue 163539).
    TensorFlow's wheels hold no kernels for Blackwell (tensorflow issue 89272).
    """
    notes = []
    cudnn = [int(part) for part in re.findall(r"\d+", libraries.get("cudnn") or "")][:2]
    if bfloat16 and [9, 8] <= cudnn <= [9, 14]:
        notes.append(
            f"cuDNN {libraries['cudnn']}: versions 9.8 to 9.12 compute bfloat16 convolutions of "
            "large volumes wrongly; expected 9.15 or newer, or float32"
        )
    for capability in sorted({each for each in capabilities if each and each >= (10, 0)}):
        notes.append(
            f"the GPU has compute capability {capability[0]}.{capability[1]}, for which "
            "TensorFlow's own wheels hold no kernels: it may end with CUDA_ERROR_INVALID_PTX; "
            "NVIDIA's containers have a TensorFlow that does"
        )
    return notes


def forget_networks() -> None:
    """Number layers from the start again, as in a new process, and free what networks held."""
    import keras

    keras.utils.clear_session()


def onednn_in_force() -> bool:
    """Return whether TensorFlow computes with oneDNN; imports TensorFlow."""
    # There is no public question for it; TensorFlow's own tests ask this way.
    from tensorflow.python.util import _pywrap_util_port

    return _pywrap_util_port.IsMklEnabled()


def instruction_set(
    flags: set[str] | None = None, environment: Mapping[str, str] = os.environ
) -> str:
    """Return the vector instructions that oneDNN uses, in the words of its own report.

    Args:
        flags: of the processor, as the kernel lists them; None: of this machine's.
        environment: ONEDNN_MAX_CPU_ISA in it limits the level, as it does for oneDNN.
    Returns:
        Such as "Intel AVX2"; "unknown" where the kernel lists no flags.
    """
    level = _level(flags, environment)
    return INSTRUCTION_SETS[level][2] if level >= 0 else "unknown"


def has_avx512(flags: set[str] | None = None, environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether oneDNN computes with AVX-512; arguments as for `instruction_set`."""
    return _level(flags, environment) >= LEVELS.index("AVX512_CORE")


def has_native_bfloat16(
    flags: set[str] | None = None, environment: Mapping[str, str] = os.environ
) -> bool:
    """Return whether the processor multiplies bfloat16 itself; arguments as `instruction_set`."""
    return _level(flags, environment) >= LEVELS.index("AVX512_CORE_BF16")


def has_amx(flags: set[str] | None = None, environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether oneDNN computes with AMX; arguments as for `instruction_set`."""
    return _level(flags, environment) >= LEVELS.index("AVX512_CORE_AMX")


def _check_bfloat16() -> None:
    """Refuse bfloat16 where convolutions would fail; say in one line where it is slow.

    TensorFlow asks the processor whether oneDNN can compute in bfloat16, not oneDNN's own limit.
    """
    if onednn_in_force() and has_avx512(environment={}) and not has_avx512():
        raise OptionError(
            f"--mixed_precision: oneDNN is limited to {instruction_set()} by ONEDNN_MAX_CPU_ISA and"
            " cannot compute in bfloat16; expected no such limit, or float32"
        )
    if not (onednn_in_force() and has_native_bfloat16()):
        kernels = f"oneDNN, {instruction_set()}" if onednn_in_force() else f"{ONEDNN}=0"
        print(
            f"note: --mixed_precision is slow here, slower than float32: no bfloat16 instructions "
            f"are used ({kernels})",
            file=sys.stderr,
        )


def usable_cores() -> int:
    """Return how many CPU cores this process may run on (its affinity mask, where there is one)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def limit_threads(count: int) -> None:
    """Use 1 to all usable cores within an operation, also in the processes started from here."""
    _check_threads("--threads", str(count))
    os.environ[THREADS] = str(count)


def threads_wanted(otherwise: int | None = None) -> int:
    """Return the threads within an operation: `--threads`, else OMP_NUM_THREADS, else `otherwise`,
    which is all cores by default."""
    for name in (THREADS, "OMP_NUM_THREADS"):
        if value := os.environ.get(name):
            return _check_threads(name, value)
    return otherwise or usable_cores()


def cpu_fact(name: str) -> str | None:
    """Return what the kernel says of the first processor, such as its "model name"."""
    cpus = Path("/proc/cpuinfo")
    found = re.search(rf"^{name}\s*:(.*)$", cpus.read_text(), re.M) if cpus.is_file() else None
    return found and found[1].strip()


def _check_threads(name: str, value: str) -> int:
    cores = usable_cores()
    if not value.isascii() or not value.isdigit() or not 1 <= int(value) <= cores:
        raise OptionError(f"{name} is {value}; expected 1 to {cores}, the cores that may be used")
    return int(value)


def _level(flags: set[str] | None, environment: Mapping[str, str]) -> int:
    """Return the position in `INSTRUCTION_SETS`, -1 below the first."""
    if flags is None:
        flags = set((cpu_fact("flags") or "").split())
    reached = -1
    for position, (name, needed, _) in enumerate(INSTRUCTION_SETS):
        if needed <= flags:
            reached = position
        elif name != OPTIONAL_LEVEL:
            break
    limit = environment.get("ONEDNN_MAX_CPU_ISA", environment.get("DNNL_MAX_CPU_ISA", "")).upper()
    # oneDNN passes over a name that it does not know.
    return min(reached, LEVELS.index(limit)) if limit in LEVELS else reached


def _set_threads(name: str, setter: Callable[[int], None], count: int) -> list[str]:
    try:
        setter(count)
    except RuntimeError:
        return [f"{name} threads could not be set to {count}: TensorFlow had started already"]
    return []
