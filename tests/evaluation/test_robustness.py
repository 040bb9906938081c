from types import SimpleNamespace

import pytest
import torch
from torch import nn

from cmkd.data import ImageData, Loader, TensorImages
from cmkd.errors import InputError
from cmkd.evaluation import on_images
from cmkd.evaluation.corruptions import GROUPS, NAMES, corrupt
from cmkd.evaluation.robustness import RobustnessOptions, robustness, stratified


@pytest.mark.parametrize(
    ("written", "names"),
    [
        ("true", NAMES),
        (["true"], NAMES),
        ("noise,fog", (*GROUPS["noise"], "fog")),
        ("[fog, noise]", (*GROUPS["noise"], "fog")),
        (["fog", "fog"], ("fog",)),
    ],
)
def test_corruptions_as_they_are_written(written, names):
    found = RobustnessOptions.of(written, "2..3")
    assert found.corruptions == names
    assert found.severities == (2, 3)


def test_no_corruptions():
    assert RobustnessOptions.of(None) is None
    assert RobustnessOptions.of("false") is None


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("fogg",), {}, "did you mean 'fog'"),
        (("fog", "0..3"), {}, "--severities is 0..3"),
        (("fog", "x"), {}, "--severities is x"),
        (("fog", "3..1"), {}, "--severities is 3..1"),
        ((None, [6]), {}, r"--severities is \[6\]"),
        (("fog",), {"images": 0}, "--corruption_images is 0"),
        (("fog",), {"seed": -1}, "--seed is -1"),
    ],
)
def test_what_cannot_be_is_refused(arguments, options, message):
    with pytest.raises(InputError, match=message):
        RobustnessOptions.of(*arguments, **options)


def test_a_stratified_choice_takes_the_same_share_of_every_class():
    targets = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)[torch.randperm(100)]
    chosen = stratified(targets, 20, seed=1)
    assert targets[chosen].bincount().tolist() == [12, 6, 2]
    assert len(chosen.unique()) == 20
    assert torch.equal(chosen, stratified(targets, 20, seed=1))
    assert not torch.equal(chosen, stratified(targets, 20, seed=2))
    assert torch.equal(stratified(targets, 1000, seed=1), torch.arange(100))


def test_few_images_are_not_those_of_the_first_classes():
    chosen = stratified(torch.arange(100).repeat(3), 10, seed=0)
    assert (chosen.remainder(100) > 50).any()


def images(channels=3, count=24):
    pixels = torch.arange(count * channels * 64).view(count, channels, 8, 8) * 37
    part = TensorImages(pixels.remainder(256).to(torch.uint8), torch.arange(count) % 3)
    return ImageData("made", ("a", "b", "c"), part, part, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), 8, "none")


def loader(data):
    return Loader(data.test, mean=data.mean, std=data.std, image_size=8, batch_size=10, workers=0)


def linear(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 3)).eval()


@pytest.mark.parametrize("channels", [1, 3])
def test_counts_are_those_of_the_corrupted_images_one_by_one(channels):
    data, student, teacher = images(channels), linear(0), linear(1)
    options = RobustnessOptions(("gaussian_noise", "contrast"), (1, 5), None, 7)
    networks = {"student": on_images(student), "teacher": on_images(teacher)}
    found = robustness(networks, loader(data), data, options)
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (data.mean, data.std))
    for name in options.corruptions:
        for place, severity in enumerate(options.severities):
            said = {"student": [], "teacher": []}
            for index in range(24):
                pixels = data.test.images[[index]]
                shown = corrupt(pixels, torch.tensor([index]), name=name, severity=severity, seed=7)
                normal = (shown.expand(-1, 3, -1, -1) / 255 - mean) / std
                for each, network in (("student", student), ("teacher", teacher)):
                    said[each].append(network(normal).argmax().item())
            corruption = found["corruptions"][name]
            for each, answers in said.items():
                right = sum(a == b for a, b in zip(answers, data.test.targets.tolist(), strict=True))
                assert corruption["accuracy"][each][place] == pytest.approx(right / 24)
            same = sum(a == b for a, b in zip(said["student"], said["teacher"], strict=True))
            assert corruption["agreement"][place] == pytest.approx(same / 24)
    assert found["grey"] == (channels == 1)
    assert found["strengths"] == "CIFAR-10-C"
    clean = (student(next(loader(data).epoch(0)).images).argmax(1) == data.test.targets[:10]).sum().item()
    assert found["clean"]["student"]["count"] >= clean


@pytest.mark.parametrize("batch", [10, 24])
def test_what_is_seen_does_not_depend_on_who_stands_first(batch):
    """Colours are not lost where the first batch has none, and grey images stay grey beside coloured ones."""
    data = images()
    data.test.images[:10] = data.test.images[:10, :1]
    seen = {}

    def network(batch):
        for index, image in zip(batch.indices.tolist(), batch.images, strict=True):
            seen.setdefault(index, []).append(image)
        return torch.zeros(len(batch.indices), 3)

    options = RobustnessOptions(("gaussian_noise",), (3,), None, 0)
    pixels = Loader(data.test, mean=data.mean, std=data.std, image_size=8, batch_size=batch, workers=0)
    assert not robustness({"student": network}, pixels, data, options)["grey"]
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (data.mean, data.std))
    for index, (clean, noisy) in seen.items():
        torch.testing.assert_close(clean, (data.test.images[index] / 255 - mean) / std)
        levels = ((noisy * std + mean) * 255).round()
        assert bool((levels == levels[:1]).all()) == (index < 10)


def test_the_summary_by_hand(monkeypatch):
    """A student that is always wrong and one that is always right, on images of one class."""
    data = images()
    data = ImageData(
        **{**data.__dict__, "test": TensorImages(data.test.images, torch.zeros(24, dtype=torch.long))}
    )
    options = RobustnessOptions(("fog", "frost"), (3,), 12, 0)

    def says(number):
        return lambda batch: torch.eye(3)[torch.full((len(batch.targets),), number)]

    found = robustness({"student": says(1), "teacher": says(0)}, loader(data), data, options)
    assert (found["images"], found["of"]) == (12, 24)
    assert found["summary"]["student"] == {"mean_accuracy": 0, "mean_error": 1, "error_increase": 0}
    assert found["summary"]["agreement"] == 0
    assert found["summary"]["error_to_teacher"] is None  # the teacher errs nowhere
    alone = robustness({"student": says(0)}, loader(data), data, options)
    assert alone["summary"] == {"student": {"mean_accuracy": 1, "mean_error": 0, "error_increase": 0}}
    both = robustness({"student": says(1), "teacher": says(2)}, loader(data), data, options)
    assert both["summary"]["error_to_teacher"] == 1


def test_the_speed_of_corruptions_is_without_that_of_networks(monkeypatch):
    """On a device that answers later: corrupting takes a second, a network ten that pass while one waits."""
    seconds, queued = [0.0], [0.0]

    def network(batch):
        queued[0] += 10
        return torch.eye(3)[torch.zeros(len(batch.targets), dtype=torch.long)]

    def corrupted(clean, *_, **__):
        queued[0] += 1
        return clean

    def wait(_):
        seconds[0] += queued[0]
        queued[0] = 0.0

    clock = SimpleNamespace(perf_counter=lambda: seconds[0])
    for name, stand_in in (("time", clock), ("corrupt", corrupted), ("_wait", wait)):
        monkeypatch.setattr(f"cmkd.evaluation.robustness.{name}", stand_in)
    data = images()
    found = robustness({"student": network}, loader(data), data, RobustnessOptions(("fog",), (1, 2), 12, 0))
    batches = round(found["seconds"] / (2 * 1 + 3 * 10))
    assert found["corrupted_per_second"] == pytest.approx(12 * 2 / (2 * batches))
