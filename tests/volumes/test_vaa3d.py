import zipfile

import numpy as np
import pytest
from v3dpy.loaders import PBD

from distill3d.errors import InputError
from distill3d.volumes.volume import read_volume


def test_a_v3dpbd_whose_runs_write_past_the_end_is_refused(tmp_path):
    """Its decoder checks no bound: such a file would write over memory."""
    PBD().save(str(tmp_path / "a.v3dpbd"), np.arange(1, 211, dtype=np.uint8).reshape(1, 5, 7, 6))
    content = (tmp_path / "a.v3dpbd").read_bytes()
    (tmp_path / "a.v3dpbd").write_bytes(content + bytes([255, 1]) * 50)
    with pytest.raises(InputError, match=r"voxels found, 210 expected"):
        read_volume(tmp_path / "a.v3dpbd")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_walk_over_v3dpbd_runs_agrees_with_the_encoder(tmp_path, dtype):
    """Smooth, flat and noisy parts use every kind of run."""
    rng = np.random.default_rng(0)
    steps = rng.integers(-20, 20, (12, 30, 40)) * (np.arange(12) % 3 == 0)[:, None, None]
    steps += rng.integers(-1, 2, steps.shape) * (np.arange(12) % 3 == 1)[:, None, None]
    data = (np.cumsum(steps, axis=None).reshape(steps.shape) % 200 + 1).astype(dtype)
    PBD().save(str(tmp_path / "a.v3dpbd"), data[None])
    np.testing.assert_array_equal(read_volume(tmp_path / "a.v3dpbd").data, data)


@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_the_length_of_a_v3draw_tells_how_wide_its_sizes_are(tmp_path, width, order, dtype):
    data = np.arange(1, 1 + 2 * 5 * 7 * 6).reshape(2, 5, 7, 6).astype(order + dtype)
    header = b"raw_image_stack_by_hpeng" + (b"L" if order == "<" else b"B")
    header += np.array([data.itemsize], order + "u2").tobytes()
    header += np.array(data.shape[::-1], f"{order}u{width}").tobytes()
    path = tmp_path / "a.v3draw"
    path.write_bytes(header + data.tobytes())
    read = read_volume(path, channel=1)
    np.testing.assert_array_equal(read.data, data[1])
    assert read.data.flags.writeable
    path.write_bytes(header + data.tobytes()[:-1])
    with pytest.raises(InputError, match="truncated"):
        read_volume(path)


def test_real_vaa3d_files_read(data_dir, tmp_path):
    assert read_volume(data_dir / "formats" / "smalltest.v3dpbd").shape == (41, 512, 512)
    with zipfile.ZipFile(data_dir / "formats" / "FruMARCM-M002262_seg001.v3draw.zip") as archive:
        archive.extractall(tmp_path)
    (path,) = tmp_path.rglob("*.v3draw")
    assert read_volume(path).shape == (119, 1024, 1024)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match="truncated"):
        read_volume(path)


def test_a_truncated_real_v3dpbd_is_refused(data_dir, tmp_path):
    content = (data_dir / "formats" / "smalltest.v3dpbd").read_bytes()
    (tmp_path / "a.v3dpbd").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="truncated"):
        read_volume(tmp_path / "a.v3dpbd")
