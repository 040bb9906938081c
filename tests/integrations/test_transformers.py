"""Training of tiny classifiers with random weights, made from configurations: nothing is fetched."""

import copy

import pytest
import torch
import torch.nn.functional as F

from cmkd import CMKDLoss, DKDLoss, InputError, KDLoss

transformers = pytest.importorskip("transformers")

from cmkd.integrations import DistillationTrainer  # noqa: E402

CLASSES = 6
IGNORED = -100


def classifier(kind, *, width=16, seed=0, labels=CLASSES, family="Bert"):
    """Return a network of one layer, with dropout, whose mode shows in what it returns."""
    torch.manual_seed(seed)
    if family == "Bert":
        sizes = {
            "hidden_size": width,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 32,
        }
    else:
        sizes = {"dim": width, "n_layers": 1, "n_heads": 2, "hidden_dim": 32}
    config = getattr(transformers, f"{family}Config")(
        vocab_size=40, max_position_embeddings=16, num_labels=labels, initializer_range=0.3, **sizes
    )
    return getattr(transformers, f"{family}For{kind}Classification")(config)


def sequences(count=8, length=10):
    """Token ids padded to one length, the true lengths in the attention mask."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 40, (count, length), generator=generator)
    lengths = torch.randint(3, length + 1, (count, 1), generator=generator)
    mask = (torch.arange(length) < lengths).long()
    return ids * mask, mask


def of_sequences(count=8):
    ids, mask = sequences(count)
    return [
        {"input_ids": row, "attention_mask": seen, "labels": int(row[0]) % CLASSES}
        for row, seen in zip(ids, mask, strict=True)
    ]


def of_tokens(count=8):
    ids, mask = sequences(count)
    labels = torch.where(mask.bool() & (torch.arange(ids.shape[1]) > 0), ids % CLASSES, IGNORED)
    return [
        {"input_ids": row, "attention_mask": seen, "labels": target}
        for row, seen, target in zip(ids, mask, labels, strict=True)
    ]


def trainer(
    model, teacher, data, tmp_path, loss=None, task_weight=None, evaluated=None, shift_labels=None, **options
):
    given = {
        "output_dir": str(tmp_path),
        "per_device_train_batch_size": 4,
        "num_train_epochs": 1,
        "learning_rate": 0.1,
        "lr_scheduler_type": "constant",
        "optim": "sgd",
        "max_grad_norm": 0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    return DistillationTrainer(
        model,
        transformers.TrainingArguments(**{**given, **options}),
        train_dataset=data,
        eval_dataset=evaluated,
        teacher=teacher,
        loss=loss,
        task_weight=task_weight,
        shift_labels=shift_labels,
    )


def batch_of(data):
    return transformers.default_data_collator(data)


CASES = {"Sequence": of_sequences, "Token": of_tokens}


@pytest.fixture(params=sorted(CASES))
def kind(request):
    return request.param


@pytest.mark.parametrize("loss", [CMKDLoss(), DKDLoss(), KDLoss()])
def test_the_loss_is_that_of_a_plain_call(kind, loss, tmp_path):
    model, teacher = classifier(kind, seed=1), classifier(kind, width=32, seed=2)
    data = CASES[kind]()
    ours = trainer(model, teacher, data, tmp_path, loss)
    batch = batch_of(data)
    model.train()
    torch.manual_seed(3)
    found = ours.compute_loss(model, dict(batch))
    torch.manual_seed(3)
    labels = batch.pop("labels")
    with torch.no_grad():
        logits, taught = model(**batch).logits, teacher.eval()(**batch).logits
    rows = [row for row, label in enumerate(labels.flatten().tolist()) if label != IGNORED]
    logits, taught = logits.reshape(-1, CLASSES)[rows], taught.reshape(-1, CLASSES)[rows]
    labels = labels.flatten()[rows]
    expected = loss.task_weight * F.cross_entropy(logits, labels) + loss(logits, taught, labels)
    assert found.item() == expected.item()


@pytest.mark.parametrize("place", ["padding", "ignored"])
def test_what_is_left_out_has_no_effect(place, tmp_path):
    """Neither the teacher's nor the student's logits there, which are made enormous."""
    model, teacher = classifier("Token", seed=1).eval(), classifier("Token", seed=2)
    data = of_tokens()
    batch = batch_of(data)
    out = batch["attention_mask"] == 0 if place == "padding" else batch["labels"] == IGNORED
    assert out.any()
    assert not out.all()
    ours = trainer(model, teacher, data, tmp_path)
    model.train()
    for module in (model, teacher):
        for part in module.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
    plain = ours.compute_loss(model, dict(batch))

    def spoil(_, given, output):
        output.logits = torch.where(out.unsqueeze(-1), 1e6 * torch.randn_like(output.logits), output.logits)
        return output

    model.register_forward_hook(spoil)
    teacher.register_forward_hook(spoil)
    assert ours.compute_loss(model, dict(batch)).item() == plain.item()


@pytest.mark.parametrize("loss", [KDLoss(), DKDLoss()])
def test_accumulated_batches_weigh_as_one_batch_would(kind, loss, tmp_path):
    """Batches with different numbers of labels: a mean of their means would be another step."""
    data = CASES[kind]()
    teacher = classifier(kind, width=32, seed=2)
    ends = []
    for size, steps in ((8, 1), (2, 4)):
        model = classifier(kind, seed=1)
        for part in model.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
        ours = trainer(
            model,
            teacher,
            data,
            tmp_path,
            loss,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
        )
        ours.train()
        ends.append((model.state_dict(), ours.state.log_history[0]))
    (whole, logged), (parts, logged_of_parts) = ends
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-4, atol=1e-5)
    for name in ("loss", "task_loss", "distillation_loss"):
        assert logged_of_parts[name] == pytest.approx(logged[name], rel=1e-4)


def test_the_count_of_all_processes_makes_a_sum_of_their_mean(kind, tmp_path, monkeypatch):
    """Two processes with the same batch: each returns twice its half, and the mean of both is the whole."""
    model, teacher = classifier(kind, seed=1), classifier(kind, seed=2)
    ours = trainer(model.eval(), teacher, CASES[kind](), tmp_path)
    batch = batch_of(CASES[kind]())
    count = int((batch["labels"] != IGNORED).sum())
    alone = ours.compute_loss(model, dict(batch), num_items_in_batch=count)
    monkeypatch.setattr(type(ours.accelerator), "num_processes", 2)
    both = ours.compute_loss(model, dict(batch), num_items_in_batch=2 * count)
    assert both.item() == pytest.approx(alone.item(), rel=1e-6)


def test_processes_that_share_a_model_are_counted_once(tmp_path, monkeypatch):
    """Four processes, two of which hold the halves of one model: the count is that of two batches."""
    model, teacher = classifier("Token", seed=1), classifier("Token", seed=2)
    ours = trainer(model.eval(), teacher, of_tokens(), tmp_path)
    batch = batch_of(of_tokens())
    count = int((batch["labels"] != IGNORED).sum())
    alone = ours.compute_loss(model, dict(batch), num_items_in_batch=count)
    monkeypatch.setattr(type(ours.accelerator), "num_processes", 4)
    monkeypatch.setattr(ours, "get_tp_size", lambda: 2)
    both = ours.compute_loss(model, dict(batch), num_items_in_batch=2 * count)
    assert both.item() == pytest.approx(alone.item(), rel=1e-6)


def test_the_parts_that_are_logged_are_the_mean_of_the_processes(tmp_path, monkeypatch):
    model, teacher = classifier("Sequence", seed=1), classifier("Sequence", seed=2)
    ours = trainer(model, teacher, of_sequences(), tmp_path)
    asked = []

    def reduce(self, sums, reduction):
        """Another process has sums larger by 2 and by 4."""
        asked.append((sums.tolist(), reduction))
        return sums + torch.tensor([1.0, 2.0])

    monkeypatch.setattr(type(ours.accelerator), "reduce", reduce)
    ours.train()
    logged = [row for row in ours.state.log_history if "loss" in row]
    assert len(logged) == len(asked) == 2
    for row, ((task, term), reduction) in zip(logged, asked, strict=True):
        assert reduction == "mean"
        assert row["task_loss"] == pytest.approx(task + 1, rel=1e-3)
        assert row["distillation_loss"] == pytest.approx(term + 2, rel=1e-3)


def test_what_was_not_logged_is_no_part_of_the_next_training(tmp_path):
    model, teacher = classifier("Sequence", seed=1), classifier("Sequence", seed=2)
    data = of_sequences()
    ours = trainer(model, teacher, data, tmp_path, per_device_train_batch_size=2, logging_steps=3)
    for _ in range(2):
        ours.train()  # four steps, the last of which is not logged
        (row,) = [row for row in ours.state.log_history if "loss" in row]
        assert row["task_loss"] + row["distillation_loss"] == pytest.approx(row["loss"], abs=2e-3)


def test_it_learns_and_leaves_the_teacher_alone(kind, tmp_path):
    model, teacher = classifier(kind, seed=1), classifier(kind, width=32, seed=2)
    before, names = copy.deepcopy(teacher.state_dict()), list(model.state_dict())
    data = CASES[kind]()
    ours = trainer(
        model,
        teacher.train(),
        data,
        tmp_path,
        learning_rate=3e-3,
        optim="adamw_torch",
        num_train_epochs=10,
        save_strategy="epoch",
        save_total_limit=1,
    )
    modes = []
    teacher.register_forward_hook(lambda module, *_: modes.append(module.training))
    ours.train()
    logged = [row for row in ours.state.log_history if "loss" in row]
    assert len(logged) == 20
    assert sum(row["loss"] for row in logged[-2:]) < 0.8 * sum(row["loss"] for row in logged[:2])
    for row in logged:
        assert row["task_loss"] + row["distillation_loss"] == pytest.approx(row["loss"], abs=2e-3)  # rounded
    assert set(modes) == {False}
    assert all(parameter.grad is None for parameter in teacher.parameters())
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name]), name
    (checkpoint,) = tmp_path.glob("checkpoint-*")
    again = type(model).from_pretrained(checkpoint)
    assert list(again.state_dict()) == names


def test_evaluation_is_of_the_task_without_the_teacher(kind, tmp_path):
    model, teacher = classifier(kind, seed=1), classifier(kind, seed=2)
    calls = []
    teacher.register_forward_hook(lambda *_: calls.append(1))
    data = CASES[kind]()
    ours = trainer(model, teacher, data, tmp_path, evaluated=data, per_device_eval_batch_size=8)
    plain = transformers.Trainer(model, ours.args, eval_dataset=data)
    assert ours.evaluate()["eval_loss"] == pytest.approx(plain.evaluate()["eval_loss"], rel=1e-5)
    assert ours.predict(data).predictions.shape == plain.predict(data).predictions.shape
    assert not calls


def test_label_smoothing_and_a_loss_of_ones_own_are_the_task(tmp_path):
    model, teacher = classifier("Sequence", seed=1), classifier("Sequence", seed=2)
    data = of_sequences()
    batch = batch_of(data)
    ours = trainer(model, teacher, data, tmp_path, label_smoothing_factor=0.2)
    model.eval()
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    labels, log_p = batch["labels"], logits.log_softmax(-1)
    smoothed = -(0.8 * log_p.gather(1, labels[:, None]).mean() + 0.2 * log_p.mean())
    assert ours.compute_loss(model, dict(batch)).item() == pytest.approx(smoothed.item(), rel=1e-6)
    ours.compute_loss_func = lambda output, labels, num_items_in_batch: (
        output.logits.sum() / num_items_in_batch
    )
    found = ours.compute_loss(model, dict(batch), num_items_in_batch=8)
    assert found.item() == pytest.approx(logits.sum().item() / 8, rel=1e-5)


def test_a_teacher_of_another_family_gets_the_inputs_it_takes(tmp_path):
    model, teacher = classifier("Sequence", seed=1), classifier("Sequence", seed=2, family="DistilBert")
    data = [{**row, "token_type_ids": torch.zeros(10, dtype=torch.int64)} for row in of_sequences()]
    ours = trainer(model, teacher, data, tmp_path)
    ours.train()
    assert ours.state.log_history[0]["distillation_loss"] > 0


def test_a_batch_without_a_label_counts_nothing(tmp_path):
    model, teacher = classifier("Token", seed=1), classifier("Token", seed=2)
    data = of_tokens()
    batch = batch_of(data)
    batch["labels"] = torch.full_like(batch["labels"], IGNORED)
    loss = trainer(model, teacher, data, tmp_path).compute_loss(
        model.train(), dict(batch), num_items_in_batch=5
    )
    loss.backward()
    assert loss.item() == 0
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in model.parameters())


def test_what_cannot_be_distilled_is_refused(tmp_path):
    model, teacher = classifier("Sequence", seed=1), classifier("Sequence", seed=2)
    data = of_sequences()
    ours = trainer(model, teacher, data, tmp_path)
    batch = batch_of(data)
    without = {name: value for name, value in batch.items() if name != "labels"}
    with pytest.raises(InputError, match="no labels"):
        ours.compute_loss(model.train(), without)
    with pytest.raises(InputError, match=r"labels are torch.float32 \(8,\)"):
        ours.compute_loss(model, {**batch, "labels": batch["labels"].float()})
    with pytest.raises(InputError, match="score the same sequences"):
        trainer(model, classifier("Token"), data, tmp_path).compute_loss(model, dict(batch))
    with pytest.raises(InputError, match=r"teacher logits have shape \(8, 3\), student logits \(8, 6\)"):
        trainer(model, classifier("Sequence", labels=3), data, tmp_path).compute_loss(model, dict(batch))
