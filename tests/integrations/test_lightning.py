"""Training of a LightningModule of one's own, with the callback and without any change to the module."""

import copy
import functools
import importlib
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cmkd import CMKDLoss, DKDLoss, InputError, KDLoss
from tests.integrations.conftest import steps_by_hand

pytest.importorskip("lightning")

from cmkd.integrations import DistillationCallback

PACKAGES = ["lightning.pytorch", "pytorch_lightning"]


def module(base, student, **changes):
    """Return a LightningModule as somebody may have written it, which knows nothing of any teacher."""

    class Classifier(base):
        def __init__(self, lr=0.1):
            super().__init__()
            self.save_hyperparameters()
            self.model = student
            self.seen = []

        def forward(self, inputs):
            return self.model(inputs)

        def training_step(self, batch, batch_idx):
            inputs, labels = batch
            logits = self(inputs)
            self.seen.append(logits.dtype)
            return F.cross_entropy(logits, labels)

        def validation_step(self, batch, batch_idx):
            self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=self.hparams.lr)

    return type("Changed", (Classifier,), changes)()


class Loader:
    """Batches in order; Lightning takes a list for several loaders, and torch's draws random numbers."""

    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


def fit(pl, own, callback, batches, tmp_path, **options):
    losses = []

    class Keep(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            losses.append(outputs["loss"].item())

    options = {"max_epochs": 1, "accelerator": "cpu", "devices": 1, "logger": False, **options}
    trainer = pl.Trainer(
        default_root_dir=tmp_path,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        callbacks=[callback, Keep()],
        **options,
    )
    torch.manual_seed(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(own, Loader(batches), Loader(batches[:1]))
    return losses, trainer


@pytest.fixture(params=PACKAGES)
def pl(request):
    return importlib.import_module(request.param)


@pytest.fixture
def lightning():
    return importlib.import_module("lightning.pytorch")


@pytest.mark.parametrize("loss", [CMKDLoss(), DKDLoss(), KDLoss()])
def test_it_trains_as_a_plain_loop_does(pl, loss, student, teacher, batches, tmp_path):
    expected = steps_by_hand(copy.deepcopy(student), copy.deepcopy(teacher), batches * 3, loss)
    own = module(pl.LightningModule, student)
    losses, trainer = fit(pl, own, DistillationCallback(teacher, loss), batches * 3, tmp_path)
    assert losses == expected  # to the last bit
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])
    assert trainer.logged_metrics["distillation/loss"] > 0
    total = loss.task_weight * trainer.logged_metrics["distillation/task"]
    assert total + trainer.logged_metrics["distillation/loss"] == pytest.approx(expected[-1], rel=1e-6)


def test_it_trains_alike_where_the_module_is_wrapped(lightning, student, teacher, batches, tmp_path):
    """Data parallel training calls the step through another module; one process is enough to see it."""
    expected = steps_by_hand(copy.deepcopy(student), copy.deepcopy(teacher), batches, CMKDLoss())
    own = module(lightning.LightningModule, student)
    try:
        losses, trainer = fit(
            lightning, own, DistillationCallback(teacher), batches, tmp_path, strategy="ddp"
        )
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    assert type(trainer.strategy).__name__ == "DDPStrategy"
    assert losses == pytest.approx(expected, rel=1e-6)


def test_the_teacher_stays_out_of_the_module(lightning, student, teacher, batches, tmp_path):
    own = module(lightning.LightningModule, student)
    before, names = copy.deepcopy(teacher.state_dict()), list(own.state_dict())
    _, trainer = fit(lightning, own, DistillationCallback(teacher), batches, tmp_path)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    saved = torch.load(tmp_path / "last.ckpt", weights_only=False)
    assert list(saved["state_dict"]) == names == list(own.state_dict())
    assert not [name for name in saved["callbacks"] if "Distillation" in name]
    assert dict(saved["hyper_parameters"]) == {"lr": 0.1}
    assert len(list(own.parameters())) == len(list(student.parameters()))
    assert not any(part.training for part in teacher.modules())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    for name, value in teacher.state_dict().items():  # statistics of batch norm among them
        assert torch.equal(value, before[name]), name
    assert "training_step" not in vars(own)


@pytest.mark.parametrize(
    ("precision", "of_teacher", "of_logits"),
    [
        ("64-true", torch.float64, torch.float64),
        ("bf16-true", torch.bfloat16, torch.bfloat16),
        ("bf16-mixed", torch.float32, torch.bfloat16),
    ],
)
def test_the_teacher_takes_the_precision_of_the_module(
    lightning, precision, of_teacher, of_logits, student, teacher, batches, tmp_path
):
    own = module(lightning.LightningModule, student)
    seen = []
    teacher.register_forward_hook(lambda _, given, output: seen.append(output.dtype))
    callback = DistillationCallback(teacher)
    losses, _ = fit(lightning, own, callback, batches, tmp_path, precision=precision)
    assert {parameter.dtype for parameter in callback.teacher.parameters()} == {of_teacher}
    assert set(seen) == set(own.seen) == {of_logits}
    assert losses[-1] < 100


def test_accumulated_gradients_are_those_of_the_loss(lightning, student, teacher, batches, tmp_path):
    loss = KDLoss()
    reference, frozen = copy.deepcopy(student), copy.deepcopy(teacher).eval()
    torch.manual_seed(3)
    reference.train()
    for inputs, labels in batches[:2]:
        logits = reference(inputs)
        value = loss.task_weight * F.cross_entropy(logits, labels) + loss(
            logits, frozen(inputs).detach(), labels
        )
        (value / 2).backward()
    torch.optim.SGD(reference.parameters(), lr=0.1).step()
    own = module(lightning.LightningModule, student)
    fit(lightning, own, DistillationCallback(teacher, loss), batches[:2], tmp_path, accumulate_grad_batches=2)
    for expected, found in zip(reference.parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(found, expected)


def test_a_step_may_return_a_dictionary_and_call_a_network_it_holds(
    lightning, student, teacher, batches, tmp_path
):
    def training_step(self, batch, batch_idx):
        logits = self.model(batch["image"])
        return {"loss": F.cross_entropy(logits, batch["label"]), "mine": len(logits)}

    named = [{"image": inputs, "label": labels} for inputs, labels in batches]
    own = module(
        lightning.LightningModule, student, training_step=training_step, validation_step=lambda *_: None
    )
    callback = DistillationCallback(teacher, DKDLoss(), task_weight=0.25, student="model")
    expected = steps_by_hand(
        copy.deepcopy(student), copy.deepcopy(teacher), batches, DKDLoss(), task_weight=0.25
    )
    losses, _ = fit(lightning, own, callback, named, tmp_path)
    assert losses == expected


def test_a_step_under_a_decorator_is_called_as_lightning_would(
    lightning, student, teacher, batches, tmp_path
):
    """It takes no number of the batch, and its decorator takes anything."""

    def decorated(step):
        @functools.wraps(step)
        def run(*args, **kwargs):
            return step(*args, **kwargs)

        return run

    @decorated
    def training_step(self, batch):
        return F.cross_entropy(self(batch[0]), batch[1])

    own = module(lightning.LightningModule, student, training_step=training_step)
    expected = steps_by_hand(copy.deepcopy(student), copy.deepcopy(teacher), batches, CMKDLoss())
    losses, _ = fit(lightning, own, DistillationCallback(teacher), batches, tmp_path)
    assert losses == expected


def test_the_target_is_found_as_one_says(lightning, student, teacher, batches, tmp_path):
    triples = [(inputs, torch.arange(len(inputs)), labels) for inputs, labels in batches]

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[2])

    own = module(
        lightning.LightningModule, student, training_step=training_step, validation_step=lambda *_: None
    )
    expected = steps_by_hand(copy.deepcopy(student), copy.deepcopy(teacher), batches, DKDLoss())
    callback = DistillationCallback(teacher, DKDLoss(), target=lambda batch: batch[2])
    losses, _ = fit(lightning, own, callback, triples, tmp_path)
    assert losses == expected


class Fading(nn.Module):
    """A loss that changes over the run."""

    def __init__(self):
        super().__init__()
        self.told = []

    def set_epoch(self, epoch):
        self.told.append(epoch)

    def forward(self, student_logits, teacher_logits, target=None):
        return F.mse_loss(student_logits, teacher_logits)


def test_a_loss_is_told_the_epoch(lightning, student, teacher, batches, tmp_path):
    loss = Fading()
    own = module(lightning.LightningModule, student)
    fit(lightning, own, DistillationCallback(teacher, loss), batches, tmp_path, max_epochs=2)
    assert loss.told == [0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75]


def refused(lightning, own, callback, batches, tmp_path):
    with pytest.raises(InputError) as error:
        fit(lightning, own, callback, batches, tmp_path, num_sanity_val_steps=0)
    assert "training_step" not in vars(own)
    return str(error.value)


def test_what_cannot_be_distilled_is_refused(lightning, student, teacher, batches, tmp_path):
    def beside(self, batch, batch_idx):
        return F.cross_entropy(self.model(batch[0]), batch[1])

    def twice(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]) + self(batch[0]), batch[1])

    base, make = lightning.LightningModule, DistillationCallback
    own = module(base, student, training_step=beside)
    said = refused(lightning, own, make(teacher), batches, tmp_path)
    assert "calls self(...) 0 times" in said
    assert "one of: 'model'" in said
    assert "2 times" in refused(
        lightning, module(base, student, training_step=twice), make(teacher), batches, tmp_path
    )
    said = refused(lightning, module(base, student), make(teacher, student="net"), batches, tmp_path)
    assert "no submodule 'net'; it has: 'model'" in said
    assert "holds the teacher" in refused(lightning, module(base, student), make(student), batches, tmp_path)
    by_hand = module(base, student)
    by_hand.automatic_optimization = False
    assert "optimises by hand" in refused(lightning, by_hand, make(teacher), batches, tmp_path)
