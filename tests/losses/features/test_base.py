"""What holds for all losses on features, whichever there are."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from cmkd.errors import InputError
from cmkd.losses import available_on_features, resolve
from cmkd.losses.features import (
    ATLoss,
    FeatureLoss,
    FitNetLoss,
    Outputs,
    ReviewKDLoss,
    RKDLoss,
    SimKDLoss,
    SPLoss,
    SRRLLoss,
)
from cmkd.losses.features.shaping import as_map, pool_to, unit

ALL = available_on_features()
every_method = pytest.mark.parametrize("kind", ALL.values(), ids=ALL)


def layers_of(stages, pooled):
    before = [f"{stage}:preactivation" for stage in stages]
    others = {"classifier": "fc", "before_pooling": f"{pooled}:input", "projector": "d"}
    return SimpleNamespace(stages=list(stages), preactivations=before, pooled=pooled, **others)


LAYERS = layers_of("ab", "c")
SAMPLES = 20


def networks(make_outputs, dtype=torch.float32, samples=6):
    """Features of two networks: two stages, a pooled embedding, and what goes into the pooling."""
    student = make_outputs(
        (samples, 4, 8, 8), (samples, 6, 4, 4), (samples, 6), (samples, 9, 4, 4), seed=1, dtype=dtype
    )
    teacher = make_outputs(
        (samples, 5, 8, 8), (samples, 9, 4, 4), (samples, 9), (samples, 9, 2, 2), seed=2, dtype=dtype
    )
    return student, with_preactivations(teacher)


def with_preactivations(outputs):
    more = {f"{name}:preactivation": x for name, x in outputs.features.items()}
    more["c:input"] = outputs.features["d"]
    return Outputs(outputs.logits, {**outputs.features, **more})


def prepared(kind, student, teacher, seed=0):
    distill = kind()
    distill.choose_layers(LAYERS, LAYERS)
    student = with_preactivations(student)
    torch.manual_seed(11)
    classifier = nn.Linear(9, 10)
    distill.build(student, teacher, num_samples=SAMPLES, classifier=classifier, seed=seed)
    return distill


def call(distill, student, teacher):
    samples = len(student.logits)
    target, indices = torch.arange(samples) % 10, torch.arange(samples) * 3 % SAMPLES
    return distill(with_preactivations(student), teacher, target, indices)


@every_method
def test_the_gradient_reaches_the_student_and_never_the_teacher(kind, make_outputs):
    student, teacher = networks(make_outputs)
    distill = prepared(kind, student, teacher)
    loss = call(distill, student, teacher)
    assert loss.shape == ()
    loss.backward()
    grads = [x.grad for x in student.features.values() if x.grad is not None]
    assert grads
    assert all(grad.isfinite().all() and (grad != 0).any() for grad in grads)
    assert all(x.grad is None for x in [*teacher.features.values(), teacher.logits])


@every_method
def test_gradients_are_those_of_the_value(kind, make_outputs):
    """Against differences in float64, along random directions."""
    student, teacher = networks(make_outputs, torch.float64, samples=4)
    distill = prepared(kind, student, teacher)
    call(distill, student, teacher)  # sets what is set by the first batch
    distill.eval()
    names = [name.partition(":")[0] for name in distill.student_layers]
    inputs = [student.features[name] for name in names]
    gradients = torch.autograd.grad(call(distill, student, teacher), inputs)
    generator = torch.Generator().manual_seed(5)
    directions = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in inputs]

    def moved(step):
        pairs = zip(names, inputs, directions, strict=True)
        features = student.features | {name: x.detach() + step * d for name, x, d in pairs}
        return call(distill, Outputs(student.logits, features), teacher).item()

    slope = (moved(1e-6) - moved(-1e-6)) / 2e-6
    expected = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True)).item()
    assert slope == pytest.approx(expected, rel=1e-5, abs=1e-7)


@every_method
def test_autocast_and_half_precision_compute_in_float32(kind, make_outputs):
    student, teacher = networks(make_outputs)
    student, teacher = (
        Outputs(x.logits, {name: f.detach().bfloat16() for name, f in x.features.items()})
        for x in (student, teacher)
    )
    plain = call(prepared(kind, student, teacher), student, teacher)
    distill = prepared(kind, student, teacher)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = call(distill, student, teacher)
    assert under_autocast.dtype == torch.float32
    torch.testing.assert_close(under_autocast, plain, rtol=0, atol=0)


SPOILED = {
    "zero": lambda x: x * 0,
    "constant": lambda x: x * 0 + 3,
    "same images": lambda x: x[:1].expand_as(x) * 1,
    "one zero image": lambda x: torch.cat([x[:1] * 0, x[1:]]),
    "1e4": lambda x: x * 1e4,
    "1e7": lambda x: x * 1e7,
    "1e-20": lambda x: x * 1e-20,
    "1e-38": lambda x: x * 1e-38,
}


@every_method
@pytest.mark.parametrize("who", ["student", "teacher", "both"])
@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
def test_degenerate_features_give_finite_values_and_gradients(kind, who, spoil, make_outputs):
    student, teacher = networks(make_outputs)
    distill = prepared(kind, student, teacher)
    if who != "teacher":
        features = {name: spoil(x.detach()).requires_grad_() for name, x in student.features.items()}
        student = Outputs(student.logits, features)
    if who != "student":
        teacher = Outputs(teacher.logits, {name: spoil(x.detach()) for name, x in teacher.features.items()})
    loss = call(distill, student, teacher)
    assert loss.isfinite()
    loss.backward()
    grads = [x.grad for x in [*student.features.values(), *distill.parameters()] if x.grad is not None]
    assert all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize("name", ["AT", "SP", "RKD", "PKT", "NST"])
def test_scale_free_methods_bear_the_whole_range_of_float32(name, make_outputs):
    kind = ALL[name]
    student, teacher = networks(make_outputs)
    distill = prepared(kind, student, teacher)
    expected = call(distill, student, teacher)
    for scale in (1e36, 1e-25):
        features = {name: (x.detach() * scale).requires_grad_() for name, x in student.features.items()}
        loss = call(distill, Outputs(student.logits, features), teacher)
        torch.testing.assert_close(loss, expected, rtol=1e-4, atol=0)
        loss.backward()
        grads = [x.grad for x in features.values() if x.grad is not None]
        assert all(grad.isfinite().all() for grad in grads)


@every_method
def test_one_image_is_enough_or_refused(kind, make_outputs):
    distill = prepared(kind, *networks(make_outputs))
    student, teacher = networks(make_outputs, samples=1)
    if any(isinstance(part, nn.BatchNorm2d) for part in distill.modules()):
        with pytest.raises(InputError, match="normalises over the batch, which has one image"):
            call(distill, student, teacher)
    else:
        assert call(distill, student, teacher).isfinite()


@every_method
def test_what_is_learnt_starts_from_the_seed_and_goes_through_the_state(kind, make_outputs):
    student, teacher = networks(make_outputs)
    torch.manual_seed(1)
    first = prepared(kind, student, teacher)
    torch.manual_seed(2)
    second, other = prepared(kind, student, teacher), prepared(kind, student, teacher, seed=1)
    for name, value in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name
    changed = [not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True)]
    assert any(changed) == bool(changed)
    call(first, student, teacher)
    other.load_state_dict(first.state_dict())
    torch.testing.assert_close(call(other, student, teacher), call(first, student, teacher), rtol=0, atol=0)


def test_building_leaves_the_random_numbers_of_the_run_alone(make_outputs):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    distill = FitNetLoss(student_layers=["a"], teacher_layers=["a"])
    distill.build(*networks(make_outputs))
    assert torch.equal(torch.rand(2), expected)


@every_method
def test_training_towards_a_teacher_lowers_the_loss(kind, make_outputs):
    student, teacher = networks(make_outputs)
    distill = prepared(kind, student, teacher)
    inputs = list(student.features.values())
    optimizer = torch.optim.Adam([*inputs, *distill.parameters()], lr=0.02)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = call(distill, student, teacher)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.05 * abs(losses[0])


@every_method
def test_options_are_listed_with_what_was_chosen(kind):
    distill = kind(weight=0.5)
    assert distill.options["weight"] == 0.5
    assert distill.options["student_layers"] is None
    distill.choose_layers(LAYERS, LAYERS)
    assert distill.options["student_layers"] == distill.student_layers
    assert distill.task_weight == (0.0 if kind is SimKDLoss else 1.0)
    assert isinstance(distill.across_batch, bool)


def test_names():
    assert {"AT", "CC", "FitNet", "NST", "PKT", "RKD", "SP", "VID"} <= set(ALL)
    assert (
        resolve("FitNet") is resolve("FitNetLoss") is resolve("cmkd.losses.features.FitNetLoss") is FitNetLoss
    )
    with pytest.raises(InputError, match=r"unknown loss 'Fitnet'; did you mean 'FitNet'"):
        resolve("Fitnet")


def test_the_rules_pair_from_the_last_stage_backwards():
    longer = layers_of("abcd", "p")
    distill = ATLoss()
    distill.choose_layers(LAYERS, longer)
    assert (distill.student_layers, distill.teacher_layers) == (["a", "b"], ["c", "d"])
    distill = SPLoss()
    distill.choose_layers(LAYERS, longer)
    assert (distill.student_layers, distill.teacher_layers) == (["b"], ["d"])
    distill = RKDLoss()
    distill.choose_layers(LAYERS, longer)
    assert (distill.student_layers, distill.teacher_layers) == (["c"], ["p"])
    distill = FitNetLoss()
    distill.choose_layers(LAYERS, longer)
    assert (distill.student_layers, distill.teacher_layers) == (["b"], ["b"])


@pytest.mark.parametrize(
    ("distill", "of_student", "of_teacher"),
    [
        # The rule pairs s2-t2, s3-t3, s4-t4 of three stages and four.
        (ATLoss(student_layers=["s2"]), ["s2"], ["t2"]),
        (ATLoss(teacher_layers=["t4", "t3"]), ["s4", "s3"], ["t4", "t3"]),
        (ATLoss(student_layers=["s3", "s3"]), ["s3", "s3"], ["t3", "t3"]),
        (ReviewKDLoss(teacher_layers=["t3", "pt"]), ["s3", "ps"], ["t3", "pt"]),
        (ReviewKDLoss(student_layers=["s2"]), ["s2"], ["t2:preactivation"]),
        (RKDLoss(student_layers=["ps"]), ["ps"], ["pt"]),
        (SRRLLoss(student_layers=["s4"]), ["s4"], ["pt"]),
    ],
)
def test_layers_of_one_network_are_paired_with_what_the_rule_pairs_them_with(distill, of_student, of_teacher):
    distill.choose_layers(layers_of(["s2", "s3", "s4"], "ps"), layers_of(["t1", "t2", "t3", "t4"], "pt"))
    assert (distill.student_layers, distill.teacher_layers) == (of_student, of_teacher)


@pytest.mark.parametrize(
    ("distill", "words"),
    [
        (ATLoss(teacher_layers=["x", "d"]), r"teacher_layers names \['x'\].*give student_layers, too"),
        # The rule compares the second stage alone, and has no partner for the third.
        (FitNetLoss(student_layers=["c"]), r"FitNetLoss by itself compares \['b'\].*give teacher_layers"),
        # The first of four stages has no partner among three.
        (ATLoss(teacher_layers=["a"]), r"teacher_layers names \['a'\]"),
    ],
)
def test_layers_that_the_rule_does_not_pair_need_both_names(distill, words):
    with pytest.raises(InputError, match=words):
        distill.choose_layers(layers_of("abc", "p"), layers_of("abcd", "p"))


def test_a_layer_may_be_compared_with_several(make_outputs):
    student = make_outputs((4, 3, 8, 8), (4, 5, 8, 8), seed=1)
    teacher = make_outputs((4, 6, 8, 8), (4, 7, 8, 8), seed=2)
    pairs = [("a", "b"), ("a", "a"), ("b", "b")]

    def loss(pairs):
        of_student, of_teacher = ([pair[side] for pair in pairs] for side in (0, 1))
        return ATLoss(student_layers=of_student, teacher_layers=of_teacher)(student, teacher)

    torch.testing.assert_close(loss(pairs), sum(loss([pair]) for pair in pairs))


def test_input_that_does_not_fit_is_named(make_outputs):
    student, teacher = networks(make_outputs)
    with pytest.raises(
        InputError, match=r"ATLoss compares features: call it with the Outputs.*not with Tensor"
    ):
        ATLoss()(student.logits, teacher.logits)
    with pytest.raises(InputError, match=r"FitNetLoss has parts to learn: call build"):
        FitNetLoss()(student, Outputs(teacher.logits, {name: teacher.features[name] for name in "abcd"}))
    layers = {"student_layers": ["a"], "teacher_layers": ["z"]}
    with pytest.raises(InputError, match=r"outputs of the teacher hold .*, but not \['z'\]: give Capture"):
        ATLoss(**layers)(student, teacher)
    with pytest.raises(InputError, match=r"features of 'a': student \(6, 4, 8, 8\).*teacher \(3, 5, 8, 8\)"):
        ATLoss(student_layers=["a"], teacher_layers=["a"])(
            student, Outputs(teacher.logits, {"a": teacher.features["a"][:3]})
        )
    with pytest.raises(InputError, match="give lists of names"):
        ATLoss(student_layers="layer3")
    with pytest.raises(InputError, match=r"in pairs"):
        ATLoss(student_layers=["a"], teacher_layers=["a", "b"])


def test_a_method_of_ones_own():
    class DifferenceLoss(FeatureLoss):
        def compare(self, batch):
            return (batch.student[0] - batch.teacher[0]).abs().sum()

    ones, twos = (Outputs(torch.zeros(2, 3), {"x": torch.full((2, 4), value)}) for value in (1.0, 2.0))
    assert DifferenceLoss(weight=0.5)(ones, twos) == 4.0


def test_tokens_become_maps():
    tokens = torch.arange(2 * 5 * 3.0).reshape(2, 5, 3)
    grid = as_map(tokens)
    assert grid.shape == (2, 3, 2, 2)
    assert torch.equal(grid[1, :, 1, 0], tokens[1, 3])  # after the class token: 1 2 / 3 4
    assert as_map(tokens[:, 1:]).shape == (2, 3, 2, 2)
    assert as_map(tokens[:, :3]).shape == (2, 3, 3, 1)
    assert as_map(tokens[:, 0]).shape == (2, 3, 1, 1)
    with pytest.raises(InputError, match=r"shape \(2,\)"):
        as_map(torch.zeros(2))


@pytest.mark.parametrize("size", [(4, 4), (8, 2), (3, 5), (1, 1)])
def test_pooling_is_adaptive(size):
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(pool_to(x, size), nn.functional.adaptive_avg_pool2d(x, size))


def test_directions():
    x = torch.tensor([[3e30, 4e30], [0.0, 0.0], [3e-25, -4e-25]], requires_grad=True)
    unit(x).sum().backward()
    torch.testing.assert_close(unit(x), torch.tensor([[0.6, 0.8], [0.0, 0.0], [0.6, -0.8]]))
    assert x.grad.isfinite().all()
    assert torch.equal(x.grad[1], torch.zeros(2))
