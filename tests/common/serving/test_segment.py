"""The client: the same labels from the twin and from both protocols, whole and in parts; refusals.

The servers are stand-ins (see conftest.py): the protocol is tested, not the server's binary.
"""

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from common.data.geometry import Geometry
from common.data.volumes import read_volume, write_volume
from common.errors import DataError, OptionError, ServingError
from common.serving.__main__ import main
from common.serving.bench import bench
from common.serving.opening import open_client
from common.serving.protocol import Patience
from common.serving.segment import check, segment

ROOT = Path(__file__).resolve().parents[3]
GEOMETRY = Geometry((4.0, 4.0, 5.0), (3.0, -20.0, 11.0), (0, 1, 0, -1, 0, 0, 0, 0, 1))
QUICK = Patience(deadline_s=20, retries=1)
KIB = 1 / 1024


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Two channels on one grid, (Z, Y, X) = (7, 20, 24)."""
    folder = tmp_path_factory.mktemp("scans")
    rng = np.random.default_rng(2)
    paths = [folder / name for name in ("ct.nii.gz", "pet.nii.gz")]
    for path in paths:
        array = rng.normal(100, 40, (7, 20, 24))
        array[:, 4:12, 5:15] += 60
        write_volume(path, array.astype(np.float32), GEOMETRY)
    return paths


@pytest.fixture(scope="module")
def wrist(tmp_path_factory):
    """One channel of whole numbers, stored with x to the right: the model wants LPS."""
    path = tmp_path_factory.mktemp("wrist") / "wrist.nii.gz"
    array = np.random.default_rng(3).integers(0, 900, (6, 15, 21)).astype(np.int16)
    geometry = Geometry((2.0, 1.0, 3.0), (5.0, 5.0, 5.0), (-1, 0, 0, 0, 1, 0, 0, 0, 1))
    write_volume(path, array, geometry)
    return path


def run(words, capsys):
    """Run the command line in this process; return its status and what stood on stderr."""
    status = main([str(word) for word in words])
    return status, capsys.readouterr().err


class TestTwin:
    def test_labels_lie_where_the_scan_lies(self, models, scans, tmp_path):
        output, sure = tmp_path / "labels.nii.gz", tmp_path / "sure.mha"
        line = segment(scans, output=output, probabilities=sure, model=models["slices"])
        labels, scan = read_volume(output), read_volume(scans[0])
        assert labels.geometry == scan.geometry
        assert labels.array.dtype == np.uint8
        # By hand: every slice standardised alone, 0.7 ct - 0.4 pet > 0.
        channels = [read_volume(path).array.astype(np.float64) for path in scans]
        values = [(c - c.mean((1, 2), keepdims=True)) / c.std((1, 2), keepdims=True)
                  for c in channels]  # fmt: skip
        evidence = 0.7 * values[0] - 0.4 * values[1]
        assert (labels.array == (evidence > 0)).mean() > 0.999
        np.testing.assert_allclose(read_volume(sure).array, 1 / (1 + np.exp(-evidence)), atol=1e-5)
        millilitres = labels.array.sum() * 0.08
        assert f"labels.nii.gz: dark {millilitres:.1f} ml; slices 3 of" in line

    def test_turned_to_the_model_and_back(self, models, wrist, tmp_path):
        """The result is the one of the scan that was stored as the model wants it."""
        with pytest.raises(Exception, match="found the orientation RPS; expected LPS"):
            segment([wrist], output=tmp_path / "a.nii.gz", model=models["whole"])
        segment([wrist], output=tmp_path / "a.nii.gz", model=models["whole"], reorient=True)
        scan = read_volume(wrist)
        turned = tmp_path / "turned.nii.gz"
        write_volume(turned, scan.array[:, :, ::-1], Geometry((2.0, 1.0, 3.0)))
        segment([turned], output=tmp_path / "b.nii.gz", model=models["whole"])
        one, two = (read_volume(tmp_path / name).array for name in ("a.nii.gz", "b.nii.gz"))
        np.testing.assert_array_equal(one, two[:, :, ::-1])
        assert len(np.unique(one)) == 3
        assert not np.array_equal(one, two)

    def test_within_a_region(self, models, scans, wrist, tmp_path):
        region = np.zeros((7, 20, 24), np.uint8)
        region[1:4, 3:9, 10:20] = 1
        mask = tmp_path / "mask.nii.gz"
        write_volume(mask, region, GEOMETRY)
        options = {"model": models["slices"]}
        segment(scans, output=tmp_path / "all.nii", **options)
        segment(scans, output=tmp_path / "inside.nii", mask=mask, **options)
        everywhere, inside = (read_volume(tmp_path / f"{name}.nii").array
                              for name in ("all", "inside"))  # fmt: skip
        np.testing.assert_array_equal(inside, everywhere * region)
        with pytest.raises(DataError, match="expected one voxel grid"):
            segment(scans, output=tmp_path / "a.nii", mask=wrist, **options)
        with pytest.raises(OptionError, match="no signature for labels, probabilities of a scan a"):
            segment(scans, output=tmp_path / "a.nii", mask=mask, **options,
                    probabilities=tmp_path / "p.nii")  # fmt: skip

    @pytest.mark.slow
    def test_as_a_command_without_keras(self, models, scans, tmp_path):
        output = tmp_path / "labels.nii.gz"
        words = ["segment", *scans, "-o", output, "--model", models["slices"]]
        done = subprocess.run(
            [sys.executable, "-m", "common.serving", *map(str, words)],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"{output}: dark ")
        assert done.stderr == (
            "note: this model was trained on phantoms; what it finds says nothing of a patient\n"
            "note: expected to be done already: resample\n"
        )

    @pytest.mark.slow
    @pytest.mark.parametrize("among", [[], ["--workers", "2"]])
    def test_a_list(self, models, scans, wrist, tmp_path, capsys, among):
        """Each scan as if it were alone; one that fails is named, and the others are there."""
        table, out, alone = tmp_path / "list.csv", tmp_path / "out", tmp_path / "alone.nii.gz"
        rows = ["id,ct,pet", *(f"{id_},{scans[0]},{scans[1]}" for id_ in "ab")]
        table.write_text("\n".join([*rows, f"c,{scans[0]},{wrist}"]))
        words = ["segment", table, "-o", out, "--model", models["slices"], *among]
        status, told = run(words, capsys)
        assert status == (1 if among else 2)
        assert "c: " in told
        assert "no usable result for 1 of 3 scans: c; the others are done" in told
        segment(scans, output=alone, model=models["slices"])
        for id_ in "ab":
            assert (out / f"{id_}.nii.gz").read_bytes() == alone.read_bytes()
        assert not (out / "c.nii.gz").exists()

    def test_what_belongs_to_one_scan_or_to_a_list(self, models, scans, tmp_path, capsys):
        table = tmp_path / "list.csv"
        table.write_text(f"id,ct,pet\na,{scans[0]},{tmp_path / 'absent.nii'}\n")
        model = ["--model", models["slices"]]
        for words, wanted in (
            ([*scans, "-o", tmp_path / "a.nii", "--workers", 2], "expected a list of scans"),
            ([table, "-o", tmp_path / "o", "--mask", scans[0]], "--mask belongs to one scan"),
            ([table, "-o", tmp_path / "o"], "line 2: the pet does not exist: "),
        ):
            status, told = run(["segment", *words, *model], capsys)
            assert (status, wanted in told, told.count("\n")) == (2, True, 1), told
        assert not (tmp_path / "o").exists()

    def test_help_needs_no_tensorflow(self):
        code = (
            "import sys; from common.serving.__main__ import main\n"
            "try: main(['segment', '--help'])\n"
            "except SystemExit: print('tensorflow' in sys.modules)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.stdout.endswith("False\n"), done.stderr
        assert "--max_message_mib" in done.stdout


@pytest.mark.parametrize("protocol", ["grpc_server", "rest_server"])
class TestBothProtocols:
    def test_served_is_local(self, protocol, request, models, scans, wrist, tmp_path):
        """Labels and probabilities are the same to the bit, for both models."""
        serve = request.getfixturevalue(protocol)
        with serve(models.values()) as (url, behaviour):
            for name, paths, options in (
                ("slices", scans, {}),
                ("whole", [wrist], {"reorient": True}),
            ):
                for place, where in (("here", None), ("there", url)):
                    segment(
                        paths, output=tmp_path / f"{place}.nii.gz", model=models[name], url=where,
                        probabilities=tmp_path / f"{place}_p.nii.gz", patience=QUICK, **options,
                    )  # fmt: skip
                for ending in (".nii.gz", "_p.nii.gz"):
                    one, two = (read_volume(tmp_path / f"{place}{ending}")
                                for place in ("here", "there"))  # fmt: skip
                    np.testing.assert_array_equal(one.array, two.array)
                    assert one.geometry == two.geometry
            assert behaviour.seen == ["volume (7, 20, 24, 2)", "volume (15, 21, 6)"]

    def test_labels_alone_ask_for_no_more(self, protocol, request, models, scans, tmp_path):
        with request.getfixturevalue(protocol)([models["slices"]]) as (url, behaviour):
            segment(scans, output=tmp_path / "a.nii", model=models["slices"], url=url)
            assert behaviour.seen == ["serving_default (7, 20, 24, 2)"]

    def test_parts_give_the_same_labels(self, protocol, request, models, scans, tmp_path):
        """6.7 KiB of voxels a slice over gRPC and about twice that as text: two slices a part."""
        limit = {"grpc_server": 9 * KIB, "rest_server": 30 * KIB}[protocol]
        with request.getfixturevalue(protocol)([models["slices"]]) as (url, behaviour):
            for place, where in (("here", None), ("there", url)):
                segment(
                    scans, output=tmp_path / f"{place}.nii.gz", model=models["slices"], url=where,
                    max_message_mib=limit,
                )  # fmt: skip
            assert len(behaviour.seen) == 4
            assert sum(int(text.split("(")[1].split(",")[0]) for text in behaviour.seen) == 7
        one, two = (read_volume(tmp_path / f"{place}.nii.gz").array for place in ("here", "there"))
        np.testing.assert_array_equal(one, two)

    def test_a_scan_that_must_stay_whole_is_refused(
        self, protocol, request, models, wrist, tmp_path
    ):
        with request.getfixturevalue(protocol)([models["whole"]]) as (url, behaviour):
            with pytest.raises(ServingError, match=(
                r"the scan, which this model must see whole, needs a message of at least \S+ \S+, "
                r"and one may have 4096 bytes; expected a larger --max_message_mib"
                r"( \(and.*grpc\.max_receive_message_length=\d+|, or grpc://host:8500)"
            )):  # fmt: skip
                segment(
                    [wrist], output=tmp_path / "a.nii", model=models["whole"], url=url,
                    reorient=True, max_message_mib=4 * KIB,
                )  # fmt: skip
            assert not behaviour.seen
        assert not list(tmp_path.iterdir())

    def test_a_slice_that_is_too_large(self, protocol, request, models, scans, tmp_path):
        with request.getfixturevalue(protocol)([models["slices"]]) as (url, _):
            with pytest.raises(
                ServingError, match=r"one slice of the scan needs a message of at least"
            ):
                segment(scans, output=tmp_path / "a.nii", model=models["slices"], url=url,
                        max_message_mib=3 * KIB)  # fmt: skip

    def test_a_busy_server_is_asked_again(self, protocol, request, models, scans, tmp_path):
        with request.getfixturevalue(protocol)([models["slices"]], busy=1) as (url, behaviour):
            options = {"output": tmp_path / "a.nii", "model": models["slices"], "url": url}
            segment(scans, **options, patience=QUICK)
            behaviour.busy = 1
            with pytest.raises(ServingError, match=r"after 1 try \(The batch scheduling queue"):
                segment(scans, **options, patience=Patience(20, 0))

    def test_deadline(self, protocol, request, models, scans, tmp_path):
        with request.getfixturevalue(protocol)([models["slices"]], delay_s=1.5) as (url, _):
            with pytest.raises(ServingError, match=r"no answer within 0\.7 s; expected a faster"):
                segment(scans, output=tmp_path / "a.nii", model=models["slices"], url=url,
                        patience=Patience(0.7, 3))  # fmt: skip
        assert not list(tmp_path.iterdir())

    def test_a_version_that_is_not_served(self, protocol, request, models, scans, tmp_path):
        with request.getfixturevalue(protocol)([models["whole"]]) as (url, _):
            with pytest.raises(ServingError, match=(
                r"found no model 'slices', version 3 there \(Servable not found for request: "
            )):  # fmt: skip
                segment(scans, output=tmp_path / "a.nii", model=models["slices"], url=url)

    def test_another_version_answers(self, protocol, request, models, scans, tmp_path):
        with request.getfixturevalue(protocol)([models["slices"]], answer_version=4) as (url, _):
            with pytest.raises(ServingError, match="found version 4 of 'slices'; expected 3"):
                segment(scans, output=tmp_path / "a.nii", model=models["slices"], url=url)

    def test_another_model_of_that_name_and_version(
        self, protocol, request, models, scans, tmp_path
    ):
        """One channel and other axes: seen before a voxel is sent."""
        other = tmp_path / "other" / "slices" / "3"
        shutil.copytree(models["whole"], other)
        with request.getfixturevalue(protocol)([other]) as (url, behaviour):
            with pytest.raises(ServingError, match=(
                r"inputs of 'masked' of model 'slices': found image float32 \(\?, \?, \?\), mask "
                r"int16 \(\?, \?, \?\); expected image float32 \(\?, \?, \?, 2\), mask .*passport"
            )):  # fmt: skip
                segment(scans, output=tmp_path / "a.nii", model=models["slices"], url=url)
            assert not behaviour.seen

    def test_served_under_another_name(self, protocol, request, models, scans, tmp_path):
        other = tmp_path / "models" / "sarcoma_b" / "3"
        shutil.copytree(models["slices"], other)
        path = {"grpc_server": "/sarcoma_b", "rest_server": "/v1/models/sarcoma_b"}[protocol]
        with request.getfixturevalue(protocol)([other]) as (url, behaviour):
            passport = models["slices"] / "passport.json"
            segment(scans, output=tmp_path / "a.nii", passport=passport, url=url + path)
            assert len(behaviour.seen) == 1

    def test_nothing_of_tensorflow_is_needed(self, protocol, request, models, scans, tmp_path):
        """A process in which none of these can be imported writes the same labels."""
        own = tmp_path / "own.nii"
        segment(scans, output=own, model=models["slices"])
        code = (
            "import sys; sys.modules.update(dict.fromkeys(('tensorflow', 'keras', 'tf_keras', "
            "'tensorflow_serving', 'pandas', 'matplotlib', 'h5py', 'tensorboard'))); "
            "from common.serving.__main__ import main; sys.exit(main(sys.argv[1:]))"
        )
        with request.getfixturevalue(protocol)([models["slices"]]) as (url, _):
            words = ["segment", *scans, "-o", tmp_path / "a.nii", "--model", models["slices"],
                     "--url", url]  # fmt: skip
            done = subprocess.run(
                [sys.executable, "-c", code, *map(str, words)],
                cwd=ROOT, capture_output=True, text=True, check=False,
            )  # fmt: skip
        assert done.returncode == 0, done.stderr
        np.testing.assert_array_equal(read_volume(tmp_path / "a.nii").array, read_volume(own).array)

    def test_recorded_case(self, protocol, request, models):
        with request.getfixturevalue(protocol)([models["slices"]]) as (url, _):
            lines = check(model=models["slices"], url=url)
        assert [line.partition(":")[0] for line in lines] == [
            "volume/labels", "volume/probabilities"
        ]  # fmt: skip

    def test_no_server(self, protocol, models, scans, tmp_path, capsys):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        url = f"{protocol[:4].replace('rest', 'http')}://127.0.0.1:{port}"
        words = ["segment", *scans, "-o", tmp_path / "a.nii", "--model", models["slices"],
                 "--url", url, "--retries", "0", "--deadline-s", "5"]  # fmt: skip
        status, said = run(words, capsys)
        assert status == 2
        assert len(said.splitlines()) == 1
        assert f"{url}: no server answers after 1 try (" in said
        assert not list(tmp_path.iterdir())


class TestGrpcLimits:
    """What the messages of gRPC itself refuse, on either side."""

    def test_server_takes_less(self, grpc_server, models, wrist, tmp_path):
        with grpc_server([models["whole"]], largest_message=6000) as (url, _):
            with pytest.raises(ServingError, match=(
                r"the message is too large \(.*Received message larger than max.*7\d\d\d bytes were"
                r" sent\); expected .*grpc\.max_receive_message_length in the server's"
            )):  # fmt: skip
                segment([wrist], output=tmp_path / "a.nii", model=models["whole"], url=url,
                        reorient=True)  # fmt: skip

    def test_answer_counts_too(self, grpc_server, models, wrist, tmp_path):
        """7.6 kB of voxels fit, 22.7 kB of probabilities of three classes do not."""
        with grpc_server([models["whole"]]) as (url, _):
            options = {"model": models["whole"], "url": url, "reorient": True,
                       "max_message_mib": 10 * KIB}  # fmt: skip
            segment([wrist], output=tmp_path / "a.nii", **options)
            with pytest.raises(
                ServingError, match=r"must see whole, needs a message of at least 2\d{4} "
            ):
                segment([wrist], output=tmp_path / "b.nii", **options,
                        probabilities=tmp_path / "p.nii")  # fmt: skip


def test_one_request_beyond_the_limit(grpc_server, models):
    """A window that no one may cut is refused before it is sent."""
    with grpc_server([models["whole"]]) as (url, behaviour):
        with open_client(model=models["whole"], url=url, max_message_mib=1 * KIB) as client:
            image = np.ones((8, 8, 8), np.float32)
            with pytest.raises(
                ServingError, match="a request of 'volume' needs a message of at least"
            ):
                client.predict("volume", {"image": image}, ["labels"])
        assert not behaviour.seen


def test_bench_counts_the_bytes_of_both_protocols(grpc_server, models):
    """Four bytes a value over gRPC; of digits 2 to 4 and a comma for whole numbers."""
    with grpc_server([models["slices"]]) as (url, behaviour):
        lines = bench(model=models["slices"], url=url, shape="10,30,40", repeats=1)
        assert behaviour.seen == ["serving_default (10, 30, 40, 2)"]
    rows = {line[:24].strip(): line[24:].split() for line in lines[1:-1]}
    assert list(rows) == [
        "gRPC, integers", "JSON, integers", "gRPC, fractions", "JSON, fractions"
    ]  # fmt: skip
    assert rows["gRPC, integers"][-1] == rows["gRPC, fractions"][-1] == "4.0"
    assert 3.5 < float(rows["JSON, integers"][-1]) < 5
    assert 9.5 < float(rows["JSON, fractions"][-1]) < 12
    assert lines[-1].startswith(f"{url}: ")
    for shape in ("3,4", "0,4,4", "a,b,c"):
        with pytest.raises(OptionError, match="--shape: found"):
            bench(model=models["slices"], shape=shape)
