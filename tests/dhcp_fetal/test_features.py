"""Feature maps: which, where, and how a low-resolution one is enlarged."""

from dataclasses import replace

import nibabel
import numpy as np

from dhcp_fetal.config import QUICK
from dhcp_fetal.data import load_case, prepare_case
from dhcp_fetal.features import centre_part, choose_maps, write_features
from dhcp_fetal.model import build_model
from dhcp_fetal.session import CaseFiles

RANGES = (((0, 1), None, None, (1, 3)), (None, (0, 1)), ())


def test_which_maps_are_meant():
    """Pathways and layers from 0: normal, low resolution, fully connected."""
    assert choose_maps(QUICK, RANGES) == [
        ("normal_1_conv", 0, 0, (0, 1)),
        ("normal_4_conv", 0, 3, (1, 3)),
        ("context_1_2_conv", 1, 1, (0, 1)),
    ]


def test_the_middle_is_taken_and_repeated():
    row = np.arange(7.0).reshape(1, 7, 1, 1, 1)
    middle = centre_part(row, (3, 1, 1), (1, 1, 1)).numpy()
    assert middle[0, :, 0, 0, 0].tolist() == [2, 3, 4]
    repeated = centre_part(row, (5, 1, 1), (2, 1, 1)).numpy()
    assert repeated[0, :, 0, 0, 0].tolist() == [2, 2, 3, 3, 4]


def test_maps_are_those_of_the_layer(tmp_path):
    """The last normal layer is as large as the output, so its maps are a plain convolution's."""
    config = replace(QUICK, inference_segment=(17, 17, 17), inference_batch_size=2,
                     normalisation="volume")  # fmt: skip
    scan = tmp_path / "scan.nii.gz"
    array = np.random.default_rng(0).normal(size=(12, 11, 10)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), scan)
    case = load_case(CaseFiles((scan,)), config)
    model = build_model(config)
    paths = write_features(model, case, config, RANGES, tmp_path / "features")
    assert [path.name for path in paths] == [
        "scan_pathway0_layer0_fm0.nii.gz",
        "scan_pathway0_layer3_fm1.nii.gz",
        "scan_pathway0_layer3_fm2.nii.gz",
        "scan_pathway1_layer1_fm0.nii.gz",
    ]
    found = nibabel.load(paths[0]).get_fdata()
    image = prepare_case(case, config)
    padded = np.pad(image[..., 0], 1, mode="reflect").astype(np.float64)
    kernel = model.get_layer("normal_1_conv").kernel.numpy()[..., 0, 0]
    expected = sum(
        kernel[x, y, z] * padded[x : x + 12, y : y + 11, z : z + 10]
        for x in range(3)
        for y in range(3)
        for z in range(3)
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)
