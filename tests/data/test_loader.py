import pytest
import torch

from cmkd.data import AUGMENTATIONS, Loader, TensorImages
from cmkd.errors import InputError

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (50, 3, 8, 8), dtype=torch.uint8, generator=generator)
    return TensorImages(pixels, torch.randint(0, 5, (50,), generator=generator))


def make(images, **options):
    return Loader(images, **({"mean": MEAN, "std": STD, "batch_size": 8} | options))


def training(images, **options):
    return make(images, **({"shuffle": True, "drop_last": True, "augment": "crop_flip"} | options))


def same(first, second):
    return all(
        torch.equal(getattr(first, name), getattr(second, name)) for name in ("images", "targets", "indices")
    )


def test_plain_pass_is_the_normalised_data(images):
    batches = list(make(images).epoch(0))
    assert [len(batch.images) for batch in batches] == [8, 8, 8, 8, 8, 8, 2]
    pixels = torch.cat([batch.images for batch in batches])
    mean, std = (torch.tensor(value, dtype=torch.float64).view(3, 1, 1) for value in (MEAN, STD))
    expected = (images.images.double() / 255 - mean) / std
    torch.testing.assert_close(pixels.double(), expected, rtol=0, atol=2e-6)
    assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(50))
    assert torch.equal(torch.cat([batch.targets for batch in batches]), images.targets)


def test_batch_is_float32_and_channels_last(images):
    batch = next(make(images).epoch(4))
    assert batch.images.dtype == torch.float32
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.view == 4


def test_grey_images_are_repeated(images):
    grey = TensorImages(images.images[:, :1], images.targets)
    batch = next(make(grey, mean=(0.5,) * 3, std=(0.2,) * 3).epoch(0))
    assert batch.images.shape == (8, 3, 8, 8)
    assert torch.equal(batch.images[:, 0], batch.images[:, 2])
    expected = (images.images[:8, 0].double() / 255 - 0.5) / 0.2
    torch.testing.assert_close(batch.images[:, 1].double(), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_same_seed_and_view_give_the_same_bits(images, augment):
    first, second = (list(training(images, augment=augment).epoch(3)) for _ in range(2))
    assert all(same(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("augment", AUGMENTATIONS[1:])
def test_pixels_change_with_view_and_seed(images, augment):
    fixed = {"augment": augment, "shuffle": False}
    first = next(training(images, **fixed).epoch(0)).images
    assert not torch.equal(first, next(training(images, **fixed).epoch(1)).images)
    assert not torch.equal(first, next(training(images, seed=1, **fixed).epoch(0)).images)


def test_pixels_of_an_image_do_not_depend_on_order_or_batch(images):
    shuffled = {
        int(i): image
        for batch in training(images).epoch(2)
        for i, image in zip(batch.indices, batch.images, strict=True)
    }
    alone = make(images, augment="crop_flip", batch_size=1, indices=torch.tensor(sorted(shuffled)))
    for batch in alone.epoch(2):
        assert torch.equal(batch.images[0], shuffled[int(batch.indices)])


def test_start_leaves_out_batches(images):
    loader = training(images)
    whole = list(loader.epoch(1))
    for start in range(len(loader) + 1):
        rest = list(loader.epoch(1, start=start))
        assert len(rest) == len(whole) - start
        assert all(same(a, b) for a, b in zip(rest, whole[start:], strict=True))


def test_order_is_a_permutation_that_changes(images):
    loader = make(images, shuffle=True)
    orders = [torch.cat([batch.indices for batch in loader.epoch(view)]).tolist() for view in (0, 1)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(50))
    assert orders[0] != orders[1]


@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_views_repeat_the_pixels_and_not_the_order(images, augment):
    def pixels(loader, epoch):
        batches = list(loader.epoch(epoch))
        assert {batch.view for batch in batches} == {epoch % 2}
        order = torch.cat([batch.indices for batch in batches])
        return order, torch.cat([batch.images for batch in batches])[order.argsort()]

    loader = make(images, shuffle=True, augment=augment, views=2)
    (order, shown), (other, new), (again, repeated) = (pixels(loader, epoch) for epoch in (1, 2, 3))
    assert torch.equal(shown, repeated)
    assert not torch.equal(order, again)
    assert not torch.equal(order, other)
    assert torch.equal(shown, new) == (augment == "none")
    assert all(
        torch.equal(a.images, b.images)
        for a, b in zip(loader.epoch(1), make(images, shuffle=True, augment=augment).epoch(1), strict=True)
    )


def test_runs_with_other_seeds_can_share_the_pixels(images):
    orders, pixels = [], []
    for seed in (1, 2):
        batches = list(make(images, shuffle=True, augment="crop_flip", seed=seed, augment_seed=1).epoch(4))
        orders.append(torch.cat([batch.indices for batch in batches]))
        pixels.append(torch.cat([batch.images for batch in batches])[orders[-1].argsort()])
    assert not torch.equal(*orders)
    assert torch.equal(*pixels)
    alone = torch.cat([batch.images for batch in make(images, augment="crop_flip", seed=1).epoch(4)])
    assert torch.equal(alone, pixels[0])


def test_subset_keeps_the_original_indices(images):
    subset = torch.tensor([3, 30, 44, 7])
    batch = next(make(images, indices=subset, batch_size=4).epoch(0))
    assert torch.equal(batch.indices, subset)
    assert torch.equal(batch.targets, images.targets[subset])


@pytest.mark.parametrize(("drop_last", "batches", "samples"), [(True, 6, 48), (False, 7, 50)])
def test_lengths(images, drop_last, batches, samples):
    loader = make(images, drop_last=drop_last)
    read = list(loader.epoch(0))
    assert len(loader) == len(read) == batches
    assert loader.num_samples == sum(len(batch.targets) for batch in read) == samples


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("drop_last", [True, False])
def test_processes_share_every_batch(images, world_size, drop_last):
    options = {"shuffle": True, "drop_last": drop_last, "augment": "crop_flip"}
    whole = list(make(images, **options).epoch(5))
    ranks = [list(make(images, rank=r, world_size=world_size, **options).epoch(5)) for r in range(world_size)]
    assert all(len(batches) == len(whole) for batches in ranks)
    for batch, *parts in zip(whole, *ranks, strict=True):
        for name in ("images", "targets", "indices"):
            assert torch.equal(getattr(batch, name), torch.cat([getattr(part, name) for part in parts]))
    assert len({len(batches[0].targets) for batches in ranks}) == 1


def test_scales_to_another_size(images):
    flat = TensorImages(torch.full((4, 3, 8, 8), 51, dtype=torch.uint8), torch.zeros(4))
    batch = next(make(flat, batch_size=4, image_size=12, mean=(0.0,) * 3, std=(1.0,) * 3).epoch(0))
    torch.testing.assert_close(batch.images, torch.full((4, 3, 12, 12), 0.2))
    assert batch.images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 64, "shuffle": True}, "batch_size 64 is larger than the 50 images"),
        ({"batch_size": 64, "drop_last": True}, "batch_size 64 is larger than the 50 images"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 8, "world_size": 3}, "batch_size 8 cannot be shared equally by 3 processes"),
        ({"views": 0}, "views is 0"),
        ({"augment": "rotate"}, "unknown augmentation 'rotate'"),
    ],
)
def test_bad_options(images, options, message):
    with pytest.raises(InputError, match=message):
        make(images, **options)


def test_large_batch_is_fine_for_evaluation(images):
    assert [len(batch.targets) for batch in make(images, batch_size=64).epoch(0)] == [50]


def test_leaves_the_global_random_state_alone(images):
    before = torch.get_rng_state()
    list(training(images, augment="resized_crop_flip").epoch(0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_same_pixels_on_cuda(images):
    for here, there in zip(training(images).epoch(1), training(images, device="cuda").epoch(1), strict=True):
        assert there.images.device.type == "cuda"
        assert torch.equal(here.indices, there.indices.cpu())
        torch.testing.assert_close(here.images, there.images.cpu(), rtol=0, atol=2e-6)
