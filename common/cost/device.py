"""What the backend computes on, and the memory that was held there at most."""

import keras

from common.cost.memory import peak_memory

BACKEND = keras.config.backend()

if BACKEND == "jax":
    import jax
elif BACKEND == "tensorflow":
    import tensorflow as tf


def uses_gpu() -> bool:
    """Return whether TensorFlow, where it is the backend, has a GPU."""
    return BACKEND == "tensorflow" and bool(tf.config.list_physical_devices("GPU"))


def leave_gpus_alone() -> None:
    """Compute without GPUs in this process: TensorFlow would take nearly all of their memory."""
    if BACKEND == "tensorflow":
        tf.config.set_visible_devices([], "GPU")


def device_name() -> str:
    """Return the name of the device, "cpu" without a GPU."""
    if BACKEND == "jax":
        return jax.local_devices()[0].device_kind
    if not uses_gpu():
        return "cpu"
    gpu = tf.config.list_physical_devices("GPU")[0]
    return tf.config.experimental.get_device_details(gpu).get("device_name", "GPU")


def peak_of_device() -> tuple[int, str]:
    """Return the largest bytes held so far, and by what: "device" or, without one, "process"."""
    if BACKEND == "jax":
        statistics = jax.local_devices()[0].memory_stats() or {}
        if "peak_bytes_in_use" in statistics:
            return statistics["peak_bytes_in_use"], "device"
    elif uses_gpu():
        return tf.config.experimental.get_memory_info("GPU:0")["peak"], "device"
    return peak_memory(), "process"
