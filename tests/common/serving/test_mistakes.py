"""What a user of the client can get wrong: each is one line, exit status 2, and no file."""

import hashlib
import json
import shutil

import numpy as np
import pytest

from common.data.geometry import Geometry
from common.data.volumes import write_volume
from common.errors import OptionError, RunError, ServingError
from common.serving.__main__ import main
from common.serving.segment import check, segment


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Two channels on one grid, in the voxel size of the model `slices`."""
    folder = tmp_path_factory.mktemp("scans")
    rng = np.random.default_rng(2)
    paths = [folder / name for name in ("ct.nii.gz", "pet.nii.gz")]
    for path in paths:
        write_volume(path, rng.normal(100, 40, (3, 8, 9)), Geometry((4.0, 4.0, 5.0)))
    return paths


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A scan on another grid."""
    path = tmp_path_factory.mktemp("other") / "other.nii.gz"
    array = np.random.default_rng(3).integers(0, 900, (6, 15, 21)).astype(np.int16)
    write_volume(path, array, Geometry((2.0, 1.0, 3.0)))
    return path


def run(words, capsys):
    """Run the command line in this process; return its status and what stood on stderr."""
    status = main([str(word) for word in words])
    return status, capsys.readouterr().err


class TestMistakes:
    @pytest.fixture
    def refuse(self, models, scans, tmp_path, capsys):
        def refuse(expected, *more, paths=scans, model=models["slices"], output="labels.nii.gz"):
            out = tmp_path / "out"
            out.mkdir(exist_ok=True)
            words = ["segment", *paths, "-o", out / output, *more]
            words += ["--model", model] if model else []
            status, said = run(words, capsys)
            assert status == 2, said
            assert len(said.splitlines()) == 1, said
            assert expected in said
            assert not list(out.iterdir())

        return refuse

    def test_options(self, refuse, scans):
        refuse("the following arguments are required: SCAN", paths=[])
        refuse("expected --model models/<name>/<version>, or --url with --passport", model=None)
        refuse("--url: found 'server'; expected grpc://host:8500", "--url", "server")
        refuse("found version 4; expected 3, the passport's", "--url", "grpc://h:1/slices/4")
        refuse("--max_message_mib: found 0; expected", "--max_message_mib", "0")
        refuse("--deadline_s 0, --retries 4: expected a deadline above 0", "--deadline_s", "0")
        refuse("--passport: found labels.json; expected a passport.json", "--passport",
               "labels.json", "--url", "http://h:1", model=None)  # fmt: skip
        refuse("unrecognized arguments: --colour red", "--colour", "red")

    def test_outputs(self, refuse, scans):
        refuse("labels.png: unknown kind of volume; expected .nii", output="labels.png")
        refuse("expected a folder that exists", output="none/labels.nii")
        refuse("is a scan to read or another output", output=scans[0])

    def test_scans(self, refuse, scans, other):
        refuse("found 1 scan; the model expects 2 scans, in this order: ct, pet", paths=scans[:1])
        refuse("expected one voxel grid", paths=[scans[0], other])

    def test_models(self, refuse, models, tmp_path):
        refuse("is not a folder; expected models/<name>/<version>", model=tmp_path / "none")
        refuse("is not an exported model; expected passport.json", model=tmp_path)
        refuse(f"such as {models['slices']}", model=models["slices"].parent)

    def test_files_that_are_not_those_of_the_passport(self, refuse, models, tmp_path):
        copy = tmp_path / "slices" / "3"
        shutil.copytree(models["slices"], copy)
        (copy / "extra.txt").write_text("more")
        refuse("extra.txt is not in the passport", model=copy)
        (copy / "extra.txt").unlink()
        graph = copy / "saved_model.pb"
        graph.write_bytes(graph.read_bytes() + b"\0")
        refuse("saved_model.pb was changed: sha256", model=copy)
        graph.unlink()
        refuse("saved_model.pb is missing", model=copy)

    def test_passport_that_lacks_something(self, refuse, models, tmp_path):
        copy = tmp_path / "slices" / "3"
        shutil.copytree(models["slices"], copy)
        path = copy / "passport.json"
        path.write_text("[]")
        refuse("found schema None; expected 1", model=copy)
        path.write_text(json.dumps({"schema": 1, "name": "slices"}))
        refuse("found no 'version'; expected a whole passport", model=copy)

    def test_damaged_graph(self, models, scans, tmp_path):
        """Its passport fits; TensorFlow itself is what refuses."""
        copy = tmp_path / "slices" / "3"
        shutil.copytree(models["slices"], copy)
        (copy / "saved_model.pb").write_bytes(b"no graph")
        path = copy / "passport.json"
        content = json.loads(path.read_text())
        content["files"]["saved_model.pb"] = hashlib.sha256(b"no graph").hexdigest()
        path.write_text(json.dumps(content))
        with pytest.raises(Exception, match="is not a SavedModel that can be loaded"):
            segment(scans, output=tmp_path / "a.nii", model=copy)

    def test_a_model_whose_search_is_the_clients(self, models, scans, tmp_path):
        copy = tmp_path / "slices" / "3"
        shutil.copytree(models["slices"], copy)
        path = copy / "passport.json"
        content = json.loads(path.read_text())
        content["whole_scan"] = {"signature": None, "command": "python -m vertebra predict"}
        path.write_text(json.dumps(content))
        with pytest.raises(OptionError, match=r"takes no whole scan.*`python -m vertebra predict`"):
            segment(scans, output=tmp_path / "a.nii", model=copy)

    def test_recorded_case_that_differs(self, models, tmp_path):
        copy = tmp_path / "slices" / "3"
        shutil.copytree(models["slices"], copy)
        with np.load(copy / "parity.npz") as arrays:
            changed = dict(arrays)
        changed["volume/output:probabilities"] += np.float32(1e-3)
        np.savez(copy / "parity.npz", **changed)
        with pytest.raises(RunError, match=r"parity\.npz was changed"):
            check(model=copy)
        path = copy / "passport.json"
        content = json.loads(path.read_text())
        digest = hashlib.sha256((copy / "parity.npz").read_bytes()).hexdigest()
        content["files"]["parity.npz"] = digest
        path.write_text(json.dumps(content))
        with pytest.raises(ServingError, match=r"volume/probabilities differs by 1\.0e-03"):
            check(model=copy)
