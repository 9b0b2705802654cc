"""Memory that is left: the machine's, and that of the control groups."""

import psutil
import pytest

from common.cost.memory import GIB, available_memory, memory_held, peak_memory


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name.replace("__", ".")).write_text(f"{value}\n")


def left(tmp_path, membership):
    (tmp_path / "cgroup").write_text(membership)
    return available_memory(tmp_path / "cgroup", tmp_path / "mount")


def test_the_narrowest_group_of_version_2_counts(tmp_path):
    """The group itself has no limit; the one above it has 3000 bytes, 1000 of 2400 are pages that
    may go."""
    mount = tmp_path / "mount"
    write(mount / "a" / "b", memory__max="max", memory__current=10, memory__stat="inactive_file 1")
    write(mount / "a", memory__max=3000, memory__current=2400,
          memory__stat="anon 1400\ninactive_file 1000")  # fmt: skip
    assert left(tmp_path, "0::/a/b\n") == 3000 - 2400 + 1000


def test_group_of_version_1(tmp_path):
    write(tmp_path / "mount" / "memory" / "job", memory__limit_in_bytes=5000,
          memory__usage_in_bytes=4500, memory__stat="total_inactive_file 100")  # fmt: skip
    assert left(tmp_path, "9:cpu:/job\n4:memory,misc:/job\n") == 600


def test_a_container_sees_its_group_as_the_root(tmp_path):
    """The path is the host's and does not exist here."""
    mount = tmp_path / "mount"
    write(mount, memory__max=800, memory__current=700, memory__stat="inactive_file 0")
    assert left(tmp_path, "0::/docker/abc\n") == 100


def test_an_exhausted_group_leaves_nothing(tmp_path):
    mount = tmp_path / "mount"
    write(mount, memory__max=800, memory__current=900, memory__stat="inactive_file 0")
    assert left(tmp_path, "0::/\n") == 0


@pytest.mark.parametrize("membership", ["", "0::/nowhere\n"])
def test_without_limits_the_machine_counts(tmp_path, membership):
    expected = psutil.virtual_memory().available
    assert left(tmp_path, membership) == pytest.approx(expected, rel=0.2)


def test_peak_is_that_of_this_process():
    before = peak_memory()
    block = bytearray(int(0.2 * GIB))
    assert peak_memory() >= memory_held() >= len(block)
    del block
    assert peak_memory() >= max(before, int(0.2 * GIB))
