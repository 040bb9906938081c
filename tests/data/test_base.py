import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from cmkd.data import ImageData, TensorImages, split
from cmkd.errors import InputError


def some_images(targets):
    return TensorImages(torch.zeros(len(targets), 1, 2, 2, dtype=torch.uint8), torch.tensor(targets))


def some_data(train, test, classes=("a", "b")):
    return ImageData(
        name="mine",
        classes=classes,
        train=some_images(train),
        test=some_images(test),
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        image_size=2,
        augment="none",
    )


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1, 30), min_size=2, max_size=6), st.floats(0.01, 0.9), st.integers(-(2**40), 2**40)
)
def test_split_takes_the_same_part_of_every_class(sizes, fraction, seed):
    targets = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    targets = targets[torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))]
    kept, held_out = split(targets, fraction, seed)
    assert sorted(kept.tolist() + held_out.tolist()) == list(range(len(targets)))
    assert kept.tolist() == sorted(kept.tolist())
    assert held_out.tolist() == sorted(held_out.tolist())
    taken = torch.bincount(targets[held_out], minlength=len(sizes)).tolist()
    for size, count in zip(sizes, taken, strict=True):
        assert count < size
        assert abs(count - fraction * size) <= 1 or count in (1, size - 1)


def test_split_is_as_large_as_scikit_learns():
    targets = torch.arange(10).repeat_interleave(50)
    theirs = train_test_split(range(500), test_size=0.1, stratify=targets, random_state=0)[1]
    held_out = split(targets, 0.1, 0)[1]
    assert torch.bincount(targets[held_out]).tolist() == torch.bincount(targets[theirs]).tolist()


def test_split_depends_on_the_seed_alone():
    targets = torch.arange(4).repeat(100)
    first = split(targets, 0.2, 0)[1]
    assert torch.equal(split(targets, 0.2, 0)[1], first)
    assert not torch.equal(split(targets, 0.2, 1)[1], first)


def test_split_of_nothing():
    kept, held_out = split(torch.tensor([0, 1, 0]), 0.0, 0)
    assert kept.tolist() == [0, 1, 2]
    assert held_out.tolist() == []
    assert held_out.dtype == torch.int64


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 7])
def test_split_refuses_other_fractions(fraction):
    with pytest.raises(InputError, match=str(fraction)):
        split(torch.tensor([0, 1]), fraction, 0)


@pytest.mark.parametrize(
    ("images", "targets", "message"),
    [
        (torch.zeros(2, 3, 4, 4), torch.zeros(2), "float32"),
        (torch.zeros(2, 4, 4, dtype=torch.uint8), torch.zeros(2), r"\(2, 4, 4\)"),
        (torch.zeros(2, 4, 4, 4, dtype=torch.uint8), torch.zeros(2), r"\(2, 4, 4, 4\)"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(3), "2 images but targets of shape"),
    ],
)
def test_tensor_images_of_another_form(images, targets, message):
    with pytest.raises(InputError, match=message):
        TensorImages(images, targets)


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ([0, 2], [0, 1], "the target 2 among its training images; with 2 classes, targets are 0 to 1"),
        ([0, 1], [-1, 1], "the target -1 among its test images"),
        ([0, 1], [], "no test images"),
    ],
)
def test_targets_outside_the_classes(train, test, message):
    with pytest.raises(InputError, match=message):
        some_data(train, test)


def test_one_class_is_no_problem_to_learn():
    with pytest.raises(InputError, match="1 class"):
        some_data([0], [0], classes=("a",))
