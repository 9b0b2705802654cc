"""What the backend computes on, and the memory that was held there at most."""

import keras

from common.cost.memory import peak_memory


def uses_gpu() -> bool:
    """Return whether TensorFlow, where it is the backend, has a GPU."""
    if keras.config.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


def leave_gpus_alone() -> None:
    """Compute without GPUs in this process: TensorFlow would take nearly all of their memory."""
    if keras.config.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.set_visible_devices([], "GPU")


def device_name() -> str:
    """Return the name of the device, "cpu" without a GPU."""
    if keras.config.backend() == "jax":
        import jax

        return jax.local_devices()[0].device_kind
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return "cpu"
    return tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")


def peak_of_device() -> tuple[int, str]:
    """Return the largest bytes held so far, and by what: "device" or, without one, "process"."""
    if keras.config.backend() == "jax":
        import jax

        statistics = jax.local_devices()[0].memory_stats() or {}
        if "peak_bytes_in_use" in statistics:
            return statistics["peak_bytes_in_use"], "device"
    elif uses_gpu():
        import tensorflow as tf

        return tf.config.experimental.get_memory_info("GPU:0")["peak"], "device"
    return peak_memory(), "process"
