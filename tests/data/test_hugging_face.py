import io
import logging

import pytest
import torch
from PIL import Image

from cmkd.data import Loader, load
from cmkd.errors import InputError

datasets = pytest.importorskip("datasets")
pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


def grey(value):
    buffer = io.BytesIO()
    Image.new("RGB", (9, 9), (value,) * 3).save(buffer, "PNG")
    return buffer.getvalue()


def cells(values):
    return [{"bytes": grey(value), "path": None} for value in values]


def write(path, values, labels, *, names=("cat", "dog"), **columns):
    """Write a parquet file as the library itself writes them, with types in its metadata."""
    kind = datasets.ClassLabel(names=list(names)) if names else datasets.Value("int64")
    features = datasets.Features({"image": datasets.Image(), "label": kind} | columns)
    rows = {"image": cells(values), "label": list(labels)} | {column: list(labels) for column in columns}
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)
    return path


@pytest.fixture
def table(tmp_path):
    folder = tmp_path / "set"
    write(folder / "train-00000-of-00002.parquet", range(6), [0, 1] * 3)
    write(folder / "train-00001-of-00002.parquet", range(6, 10), [0, 1] * 2)
    write(folder / "test-00000-of-00001.parquet", [50, 51], [0, 1])
    return folder


def greys(images, indices=None):
    indices = torch.arange(len(images)) if indices is None else indices
    return images.read(indices)[:, 0, 4, 4].tolist()


def test_folder_of_parquet_files(table):
    data = load(f"hf:{table}", image_size=8)
    assert data.classes == ("cat", "dog")
    assert greys(data.train) == list(range(10))
    assert data.train.targets.tolist() == [0, 1] * 5
    assert greys(data.test) == [50, 51]
    assert greys(data.train, torch.tensor([9, 0])) == [9, 0]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_and_resume(table, workers):
    data = load(f"hf:{table}", image_size=8)
    options = {"mean": data.mean, "std": data.std, "batch_size": 4, "shuffle": True, "augment": data.augment}
    whole = list(Loader(data.train, workers=0, **options).epoch(1))
    rest = list(Loader(data.train, workers=workers, **options).epoch(1, start=1))
    assert sorted(torch.cat([batch.indices for batch in whole]).tolist()) == list(range(10))
    for one, other in zip(whole[1:], rest, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.targets, other.targets)


def test_withheld_labels_are_no_test_part(table):
    write(table / "test-00000-of-00001.parquet", [50, 51], [-1, -1])
    write(table / "validation-00000-of-00001.parquet", [60], [1])
    assert greys(load(f"hf:{table}", image_size=8).test) == [60]


def test_one_file_without_a_test_part_is_split(tmp_path):
    file = write(tmp_path / "all.parquet", range(20), [0, 1] * 10)
    data = load(f"hf:{file}", image_size=8)
    assert sorted(greys(data.train) + greys(data.test)) == list(range(20))
    assert data.test.targets.bincount().tolist() == [2, 2]


@pytest.mark.parametrize("image", ["struct", "bytes"])
@pytest.mark.parametrize("labels", [["b", "a", "b", "a"], [1, 0, 1, 0], [True, False, True, False]])
def test_parquet_of_other_programs(tmp_path, image, labels):
    images = cells(range(4)) if image == "struct" else [cell["bytes"] for cell in cells(range(4))]
    columns = {"pixels": images, "id": ["x"] * 4, "label": labels}
    for part in ("train", "test"):
        parquet.write_table(pyarrow.table(columns), tmp_path / f"{part}.parquet")
    data = load(f"hf:{tmp_path}", image_size=8)
    assert data.classes == (("a", "b") if labels[0] == "b" else ("0", "1"))
    assert data.train.targets.tolist() == [1, 0, 1, 0]
    assert greys(data.test) == [0, 1, 2, 3]


def test_saved_to_disk_and_selected(tmp_path, table):
    loaded = datasets.load_dataset(str(table))
    parts = {"train": loaded["train"].select([8, 1, 2]), "test": loaded["test"]}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    data = load(f"hf:{tmp_path / 'saved'}", image_size=8)
    assert greys(data.train) == [8, 1, 2]
    assert data.train.targets.tolist() == [0, 1, 0]


def test_configurations(tmp_path):
    for config, value in (("small", 3), ("large", 7)):
        write(tmp_path / config / "train.parquet", [value] * 4, [0, 1] * 2)
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: small\n  data_files: small/*.parquet\n"
        "- config_name: large\n  data_files: large/*.parquet\n---\n"
    )
    assert set(greys(load(f"hf:{tmp_path}:large", image_size=8).train)) == {7}
    with pytest.raises(InputError, match=r"cannot open hf:.*(small|large)"):
        load(f"hf:{tmp_path}")
    with pytest.raises(InputError, match=r"cannot open hf:.*:tiny: .*tiny"):
        load(f"hf:{tmp_path}:tiny")


def test_columns_are_named_where_there_are_several(tmp_path):
    extra = {"coarse": datasets.ClassLabel(names=["x", "y"])}
    for part in ("train", "test"):
        write(tmp_path / f"{part}.parquet", range(2), [1, 0], **extra)
    with pytest.raises(InputError, match=r"2 label columns \(label, coarse\); name one with --label_column"):
        load(f"hf:{tmp_path}")
    data = load(f"hf:{tmp_path}", label_column="coarse", image_column="image", image_size=8)
    assert data.classes == ("x", "y")
    with pytest.raises(InputError, match=r"unknown label column of hf:.* 'coars'; did you mean 'coarse'"):
        load(f"hf:{tmp_path}", label_column="coars")
    with pytest.raises(InputError, match="unknown image column"):
        load(f"hf:{tmp_path}", image_column="pixels", label_column="coarse")


@pytest.mark.parametrize("option", ["image_column", "label_column"])
def test_columns_are_of_tables(option):
    with pytest.raises(InputError, match="has no columns"):
        load("fashion-mnist-12k", **{option: "x"})


def test_table_without_images_or_labels(tmp_path):
    parquet.write_table(pyarrow.table({"image": cells([1]), "text": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(
        InputError, match=r"no label column to be told; name one .* \(its columns: image, text\)"
    ):
        load(f"hf:{tmp_path / 'a.parquet'}")
    parquet.write_table(pyarrow.table({"label": [0, 1], "text": ["a", "b"]}), tmp_path / "b.parquet")
    with pytest.raises(InputError, match="no image column to be told"):
        load(f"hf:{tmp_path / 'b.parquet'}")


def test_labels_that_are_no_classes(tmp_path):
    columns = {"image": cells(range(2)), "label": [0.5, 1.5]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"has labels such as 0\.5"):
        load(f"hf:{tmp_path / 'a.parquet'}")


def test_rows_without_a_label_are_refused_or_left_out(tmp_path, caplog):
    write(tmp_path / "train.parquet", range(6), [0, 1, None, 1, -1, 0])
    write(tmp_path / "test.parquet", [50, 51], [0, 1])
    with pytest.raises(InputError, match=r"2 rows of the part 'train' have no label .* the first is row 2"):
        load(f"hf:{tmp_path}")
    with caplog.at_level(logging.WARNING, logger="cmkd"):
        data = load(f"hf:{tmp_path}", image_size=8, bad_images="skip")
    assert greys(data.train) == [0, 1, 3, 5]
    assert data.train.targets.tolist() == [0, 1, 1, 0]
    assert "left out: 2 rows" in caplog.text


@pytest.mark.parametrize("cell", [None, {"bytes": b"no image", "path": None}])
def test_damaged_image_is_named_by_its_row(tmp_path, cell):
    columns = {"image": [cells([1])[0], cell, *cells([3, 4])], "label": [0, 1, 0, 1]}
    for part in ("train", "test"):
        parquet.write_table(pyarrow.table(columns), tmp_path / f"{part}.parquet")
    images = load(f"hf:{tmp_path}", image_size=8).train
    with pytest.raises(
        InputError, match=r"cannot read the image in row 1 of train: (the cell is empty|no image)"
    ):
        images.read(torch.tensor([1]))
    skipping = load(f"hf:{tmp_path}", image_size=8, bad_images="skip")
    (batch,) = Loader(skipping.train, mean=(0,) * 3, std=(1,) * 3, batch_size=4, workers=0).epoch(0)
    assert batch.indices.tolist() == [0, 3, 2, 3]


def test_parts_without_train(tmp_path):
    for part in ("test", "validation"):
        write(tmp_path / f"{part}.parquet", range(2), [0, 1])
    with pytest.raises(InputError, match="has no part 'train', only validation, test"):
        load(f"hf:{tmp_path}")


@pytest.mark.parametrize("name", ["/absent/folder", "./absent", "a/b/c"])
def test_folder_that_is_missing(name):
    with pytest.raises(InputError, match=f"no such folder: .*{name.strip('./')}"):
        load(f"hf:{name}")


def test_damaged_parquet(tmp_path):
    (tmp_path / "train.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(InputError, match=r"cannot open hf:.*"):
        load(f"hf:{tmp_path}")
