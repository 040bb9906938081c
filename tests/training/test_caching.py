"""A student cannot tell a cached teacher from a live one, and a cache of something else is refused."""

import json

import pytest
import torch
from PIL import Image

from cmkd import data as datasets
from cmkd.cli import main
from cmkd.data import AUGMENTATIONS, ImageData, TensorImages
from cmkd.errors import InputError
from cmkd.models import read_state_dict
from cmkd.teachers import CachedTeacher, LiveTeacher
from cmkd.training import CacheConfig, DistillConfig, cache, distill
from cmkd.training import runs as runs_module

pytestmark = pytest.mark.usefixtures("tiny_networks")

TEACHER = {"teacher": "tiny_networks:teacher", "teacher_weights": "random"}
TAUGHT = {**TEACHER, "student": "tiny_networks:student", "epochs": 4, "batch_size": 32, "workers": 0}


@pytest.fixture
def small(monkeypatch):
    """A data set in memory that is quick to look at, under the name of any."""
    generator = torch.Generator().manual_seed(3)
    train, test = (
        TensorImages(
            torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=generator),
            torch.arange(count) % 10,
        )
        for count in (200, 40)
    )

    def load(name, *_, **__):
        return ImageData(
            name=name,
            classes=tuple("abcdefghij"),
            train=train,
            test=test,
            mean=(0.5, 0.4, 0.3),
            std=(0.2, 0.3, 0.4),
            image_size=16,
            augment="crop_flip",
        )

    monkeypatch.setattr(datasets, "load", load)
    return train


@pytest.fixture
def pets(tmp_path):
    """Images of several sizes in class folders."""
    noise = torch.Generator().manual_seed(1)
    for name in "abcdefghij":
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(6):
            pixels = torch.randint(0, 256, (14 + number, 20, 3), dtype=torch.uint8, generator=noise)
            Image.fromarray(pixels.numpy()).save(tmp_path / "pets" / name / f"{number}.png")
    return f"folder:{tmp_path / 'pets'}"


def write(path, **options):
    return cache(CacheConfig(**{**TEACHER, "path": str(path), "batch_size": 32, "workers": 0, **options}))


def student(out, **options):
    return distill(DistillConfig(**{**TAUGHT, "out": str(out), **options}), progress=False)


def weights(folder):
    return read_state_dict(folder.path / "student.safetensors")


@pytest.mark.parametrize("augment", AUGMENTATIONS)
@pytest.mark.parametrize("kind", ["memory", "folder"])
def test_the_student_sees_the_pixels_of_the_cache(tmp_path, monkeypatch, request, kind, augment):
    """What the teacher was shown while the cache was written, and the student by the loader of its run."""
    source = {}
    if kind == "folder":
        source = {"data": request.getfixturevalue("pets"), "image_size": 16}
    else:
        request.getfixturevalue("small")
    shown, compared, original = {}, [], LiveTeacher.forward

    def look(self, batch):
        pixels = zip(batch.indices.tolist(), batch.images, strict=True)
        shown.update({(index, batch.view): image.clone() for index, image in pixels})
        return original(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(LiveTeacher, "forward", look)
        write(tmp_path / "cache", augment=augment, augment_seed=7, views=2, **source)

    def fit(student, objective, loader, *, teacher, **_):
        assert isinstance(teacher, CachedTeacher)
        for epoch in range(4):
            for batch in loader.epoch(epoch):
                for index, image in zip(batch.indices.tolist(), batch.images, strict=True):
                    assert torch.equal(image, shown[index, batch.view])
                    compared.append((epoch, index))
        return student

    monkeypatch.setattr(runs_module, "fit", fit)
    with monkeypatch.context() as patch:
        patch.setattr(runs_module, "judge", lambda *_: {})
        patch.setattr(runs_module, "keep_result", lambda *_: None)
        student(
            tmp_path / "run", augment=augment, augment_seed=7, seed=5, cache=str(tmp_path / "cache"), **source
        )
    assert len(set(compared)) == len(compared) > 100
    # Views differ, so that the comparison means something.
    assert torch.equal(shown[0, 0], shown[0, 1]) == (augment == "none") or augment == "flip"


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("loss", ["KD", "CMKD"])
def test_a_student_of_the_cache_is_the_student_of_the_network(tmp_path, monkeypatch, loss, dtype):
    """Bit for bit, if the network's logits are rounded as those in the cache are."""
    options = {"loss": {"name": loss}, "seed": 4, "augment_seed": 1}
    write(tmp_path / "cache", views=3, augment_seed=1, dtype=dtype)
    cached = weights(student(tmp_path / "of-cache", cache=str(tmp_path / "cache"), **options))
    other = weights(student(tmp_path / "other", **options))  # a new view in every epoch

    original = LiveTeacher.forward
    monkeypatch.setattr(
        LiveTeacher, "forward", lambda self, batch: original(self, batch).to(getattr(torch, dtype)).float()
    )
    live = weights(student(tmp_path / "live", views=3, **options))
    for key, value in live.items():
        assert torch.equal(value, cached[key]), key
    assert not all(torch.equal(value, other[key]) for key, value in live.items())


@pytest.mark.usefixtures("small")
def test_views_repeat_without_a_cache(tmp_path, monkeypatch):
    seen, fit = {}, runs_module.fit

    def spy(student, objective, loader, **options):
        for epoch in range(4):
            batches = list(loader.epoch(epoch))
            order = torch.cat([batch.indices for batch in batches])
            seen[epoch] = dict(
                zip(order.tolist(), torch.cat([batch.images for batch in batches]), strict=True)
            )
        return fit(student, objective, loader, **options)

    monkeypatch.setattr(runs_module, "fit", spy)
    student(tmp_path / "run", views=2)
    both = seen[1].keys() & seen[3].keys()
    assert len(both) > 100
    assert all(torch.equal(seen[1][index], seen[3][index]) for index in both)
    assert not all(torch.equal(seen[1][index], seen[2][index]) for index in seen[1].keys() & seen[2].keys())


@pytest.mark.usefixtures("small")
def test_one_cache_for_every_seed_split_and_method(tmp_path, monkeypatch):
    write(tmp_path / "cache")
    monkeypatch.setattr(LiveTeacher, "forward", None)  # the network is not there
    for seed, loss, validation in [(0, "KD", 0.1), (1, "DIST", 0.3), (2, "CMKD", 0.0)]:
        options = {"seed": seed, "loss": {"name": loss}, "validation": validation, "augment_seed": 0}
        run = distill(
            DistillConfig(
                **{key: value for key, value in TAUGHT.items() if not key.startswith("teacher")},
                **options,
                cache=str(tmp_path / "cache"),
                out=str(tmp_path / loss),
            ),
            progress=False,
        )
        teacher = run.read_json("teacher.json")
        assert teacher["network"] == "tiny_networks:teacher"
        assert teacher["logits"] == "cached in float16"
        assert "teacher" not in run.read_json("result.json")


@pytest.mark.usefixtures("small")
def test_a_run_goes_on_with_the_views_it_began_with(tmp_path):
    write(tmp_path / "cache")
    options = {"cache": str(tmp_path / "cache"), "epochs": 1}
    first = student(tmp_path / "run", **options)
    (first.path / "result.json").unlink()  # as if it had been stopped just before its end
    write(tmp_path / "cache", views=2)
    assert student(tmp_path / "run", **options).read_config()["views"] == 1
    assert student(tmp_path / "other", **options).read_config()["views"] == 2


@pytest.mark.usefixtures("small")
def test_with_its_network_the_teacher_is_compared_on_other_images(tmp_path):
    write(tmp_path / "cache")
    run = student(tmp_path / "run", cache=str(tmp_path / "cache"))
    assert "rank_correlation" in run.read_metrics()[-1]["validation"]
    assert "accuracy" in run.read_json("result.json")["teacher"]
    assert run.read_config()["views"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"teacher_weights": "{other}"},
            r"teacher's weights \(sha256\): there [0-9a-f]{12}, now [0-9a-f]{12}",
        ),
        (
            {"teacher_mean": [0.5] * 3, "teacher_std": [0.5] * 3},
            r"teacher's mean: there \[0.5, 0.4, 0.3\], now \[0.5, 0.5, 0.5\]",
        ),
        ({"augment": "flip"}, "--augment: there crop_flip, now flip"),
        ({"seed": 1}, "--augment_seed: there 0, now 1"),
        ({"augment_seed": 1}, "--augment_seed: there 0, now 1"),
        ({"precision": "bf16"}, "--precision: there fp32, now bf16"),
        ({"views": 2}, "has views: 1, asked for are 2"),
    ],
)
def test_a_cache_of_something_else(tmp_path, small, options, message):
    write(tmp_path / "cache", precision="fp32")
    if "teacher_weights" in options:
        from tiny_networks import teacher

        network = teacher(10)
        torch.save({key: value + 1 for key, value in network.state_dict().items()}, tmp_path / "other.pt")
        options = {"teacher_weights": str(tmp_path / "other.pt")}
    with pytest.raises(InputError, match=message):
        student(tmp_path / "run", **{"cache": str(tmp_path / "cache"), "precision": "fp32", **options})
    assert not (tmp_path / "run").exists()


def test_a_cache_of_other_images(tmp_path, small):
    write(tmp_path / "cache")
    small.images[3, 0, 0, 0] ^= 1
    with pytest.raises(InputError, match=r"data: there fashion-mnist-12k \(fingerprint .*\), now fashion"):
        student(tmp_path / "run", cache=str(tmp_path / "cache"))


def test_another_version_of_the_augmentation(tmp_path, small, monkeypatch):
    write(tmp_path / "cache")
    monkeypatch.setattr("cmkd.data.augment.VERSION", 99)
    with pytest.raises(InputError, match="augmentation's code"):
        student(tmp_path / "run", cache=str(tmp_path / "cache"))


@pytest.mark.usefixtures("small")
def test_live_and_cached_are_not_mixed_in_a_run(tmp_path):
    write(tmp_path / "cache")
    run = student(tmp_path / "run", cache=str(tmp_path / "cache"))
    (run.path / "result.json").unlink()  # as if it had been stopped just before its end
    with pytest.raises(
        InputError, match=r"begun with the teacher's logits cached in float16, now they are live"
    ):
        student(tmp_path / "run", views=1)
    (tmp_path / "cache").rename(tmp_path / "moved")
    assert student(tmp_path / "run", cache=str(tmp_path / "moved")).finished


@pytest.mark.usefixtures("small")
def test_processes_find_their_share_by_the_variables_of_launchers(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        manifest = write(tmp_path / "cache", views=2, cpu=True)
        assert (manifest is None) == (rank == "1")
    assert manifest.views == 2
    monkeypatch.delenv("WORLD_SIZE")
    write(tmp_path / "alone", views=2)
    for name in ("view000/00000.npy", "view001/00000.npy"):
        assert (tmp_path / "cache" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


def test_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    teacher = ["--teacher", "tiny_networks:teacher", "--teacher_weights", "random"]
    assert main(["cache", "logits", *teacher, "--views", "2"]) == 0
    assert "logits of 10,000 images of fashion-mnist-12k in 2 views, 10 classes" in capsys.readouterr().out
    assert main(["cache", "logits", "--verify"]) == 0
    assert "every checksum is right (400,000 bytes)" in capsys.readouterr().out
    command = ["distill", "--cache", "logits", "--student", "tiny_networks:student", "--batch_size", "512"]
    assert main([*command, "--epochs", "1", "--loss", "KD", "--out", "run"]) == 0
    assert "logits cached in float16" in capsys.readouterr().out
    assert json.loads((tmp_path / "run/teacher.json").read_text())["network"] == "tiny_networks:teacher"
    assert main(["evaluate", "run"]) == 0
    capsys.readouterr()

    def refused(*arguments):
        assert main(list(arguments)) == 2
        err = capsys.readouterr().err
        assert "Traceback" not in err
        return err.strip().splitlines()[-1]

    file = tmp_path / "logits/view001/00001.npy"
    file.write_bytes(file.read_bytes()[:-2] + b"\x00\x7f")
    assert "00001.npy is damaged" in refused("cache", "logits", "--verify")
    assert "--teacher is required" in refused("cache", "new")
    assert "--views is 0" in refused("cache", "new", *teacher, "--views", "0")
    assert "unknown augmentation 'crop'" in refused("cache", "new", *teacher, "--augment", "crop")
    manifest = json.loads((tmp_path / "logits/manifest.json").read_text())
    (tmp_path / "logits/manifest.json").write_text(json.dumps({**manifest, "teacher": {"network": "x"}}))
    assert "does not describe its teacher" in refused(*command)
    assert "teacher cache absent does not exist" in refused(*command, "--cache", "absent")
    assert "--teacher_weights" in refused(*command, "--teacher_weights", "random")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["logits", "run"]
