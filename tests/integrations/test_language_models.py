"""Training of tiny language models with random weights, made from configurations: nothing is fetched."""

import pytest
import torch
import torch.nn.functional as F

from cmkd import CMKDLoss, InputError, KDLoss, TokenLoss

transformers = pytest.importorskip("transformers")

from cmkd.integrations.transformers import DistillationTrainer, _predicts_next  # noqa: E402
from tests.integrations.test_transformers import IGNORED, batch_of, sequences, trainer  # noqa: E402

WORDS = 40


def language_model(family="GPT2", *, width=16, seed=0, words=WORDS):
    torch.manual_seed(seed)
    if family == "GPT2":
        config = transformers.GPT2Config(
            vocab_size=words, n_positions=16, n_embd=width, n_layer=1, n_head=2, initializer_range=0.3,
            bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
        return transformers.GPT2LMHeadModel(config)
    sizes = {"hidden_size": width, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    if family == "Llama":
        sizes |= {"num_key_value_heads": 1, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
        config = transformers.LlamaConfig(vocab_size=words, initializer_range=0.3, **sizes)
        return transformers.LlamaForCausalLM(config)
    config = transformers.BertConfig(vocab_size=words, initializer_range=0.3, **sizes)
    return transformers.BertForMaskedLM(config)


def model_of_pictures(seed=0):
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(image_size=8, patch_size=4, **sizes),
        text_config=transformers.LlamaConfig(vocab_size=WORDS, initializer_range=0.3, **sizes),
    )
    return transformers.LlavaForConditionalGeneration(config)


def without_dropout(model):
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    return model


def of_words(count=8):
    """Texts with their own tokens as labels, as collators for language models make them."""
    ids, seen = sequences(count)
    return [
        {"input_ids": row, "attention_mask": mask, "labels": torch.where(mask.bool(), row, IGNORED)}
        for row, mask in zip(ids, seen, strict=True)
    ]


@pytest.mark.parametrize("family", ["GPT2", "Llama"])
@pytest.mark.parametrize("loss", [CMKDLoss(), KDLoss()])
def test_the_loss_is_that_of_a_plain_call_on_the_next_token(family, loss, tmp_path):
    model, teacher = language_model(family, seed=1), language_model(width=32, seed=2)
    data = of_words()
    ours = trainer(model, teacher, data, tmp_path, loss)
    batch = batch_of(data)
    without_dropout(model).train()
    found = ours.compute_loss(model, dict(batch))
    labels = batch.pop("labels")
    with torch.no_grad():
        logits, taught = model(**batch).logits, teacher.eval()(**batch).logits
    # Written out: what stands at position t is held against the token at t + 1.
    pairs = [
        (logits[text, place], taught[text, place], labels[text, place + 1])
        for text in range(len(labels))
        for place in range(labels.shape[1] - 1)
        if labels[text, place + 1] != IGNORED
    ]
    mine, theirs, target = (torch.stack(list(each)) for each in zip(*pairs, strict=True))
    task = F.cross_entropy(mine, target)
    assert found.item() == pytest.approx(
        (loss.task_weight * task + loss(mine, theirs, target)).item(), rel=1e-6
    )
    # The task is the loss that the model would have computed for itself.
    own = model(**batch, labels=labels).loss
    assert own.item() == pytest.approx(task.item(), rel=1e-5)


def test_a_model_that_sees_pictures_predicts_the_next_token(tmp_path):
    """Transformers calls it one of conditional generation, as it does encoders with a decoder."""
    model, teacher = model_of_pictures(seed=1).eval(), model_of_pictures(seed=2)
    ours = trainer(model, teacher, of_words(), tmp_path)
    assert ours.shift_labels
    batch = batch_of(of_words())
    own = model(**batch).loss
    assert ours.compute_loss(model, dict(batch)).item() == pytest.approx(own.item(), rel=1e-5)


def test_a_decoder_beside_an_encoder_has_its_labels_in_place():
    config = transformers.T5Config(vocab_size=WORDS, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    assert not _predicts_next(transformers.T5ForConditionalGeneration(config))


@pytest.mark.parametrize(
    ("family", "shift_labels"), [("GPT2", None), ("GPT2", False), ("Llama", None), ("Llama", False)]
)
def test_the_shares_of_a_step_add_up_to_the_whole(family, shift_labels, tmp_path):
    """The labels that are counted for a step are those that count in it."""
    data = of_words()
    model, teacher = without_dropout(language_model(family, seed=1)), language_model(width=32, seed=2)
    ours = trainer(
        model, teacher, data, tmp_path, KDLoss(), per_device_train_batch_size=2,
        gradient_accumulation_steps=4, shift_labels=shift_labels,
    )  # fmt: skip
    whole = ours.compute_loss(model.train(), batch_of(data)).item()
    ours.train()
    assert ours.state.log_history[0]["loss"] == pytest.approx(whole, rel=1e-4)


@pytest.mark.parametrize("family", ["GPT2", "Llama"])
def test_it_learns_what_the_teacher_predicts(family, tmp_path):
    model, teacher = language_model(family, seed=1), language_model(width=32, seed=2)
    data = of_words()
    ours = trainer(
        model, teacher, data, tmp_path, learning_rate=3e-3, optim="adamw_torch", num_train_epochs=15,
        gradient_accumulation_steps=2,
    )  # fmt: skip
    assert ours.shift_labels
    ours.train()
    logged = [row for row in ours.state.log_history if "loss" in row]
    assert sum(row["loss"] for row in logged[-3:]) < 0.8 * sum(row["loss"] for row in logged[:3])
    assert sum(row["distillation_loss"] for row in logged[-3:]) < 0.8 * sum(
        row["distillation_loss"] for row in logged[:3]
    )


def test_accumulated_texts_weigh_as_one_batch_would(tmp_path):
    data, ends = of_words(), []
    teacher = language_model(width=32, seed=2)
    for size, steps in ((8, 1), (2, 4)):
        model = language_model("Llama", seed=1)
        ours = trainer(
            model, teacher, data, tmp_path, KDLoss(), per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
        )  # fmt: skip
        ours.train()
        ends.append((model.state_dict(), ours.state.log_history[0]))
    (whole, logged), (parts, logged_of_parts) = ends
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-4, atol=1e-5)
    assert logged_of_parts["distillation_loss"] == pytest.approx(logged["distillation_loss"], rel=1e-4)


def test_masked_words_are_not_shifted(tmp_path):
    model, teacher = language_model("Bert", seed=1).eval(), language_model("Bert", width=32, seed=2)
    ours = trainer(model, teacher, of_words(), tmp_path)
    assert not ours.shift_labels
    batch = batch_of(of_words())
    found = ours.compute_loss(model, dict(batch))
    assert found.item() == pytest.approx(model(**batch).loss.item(), rel=1e-5)


def test_whether_labels_are_shifted_can_be_said(tmp_path):
    model, teacher = language_model(seed=1), language_model(seed=2)
    arguments = trainer(model, teacher, of_words(), tmp_path).args
    ours = DistillationTrainer(model, arguments, teacher=teacher, shift_labels=False)
    batch = batch_of(of_words())
    kept = batch["labels"] != IGNORED
    model.eval()
    expected = F.cross_entropy(model(input_ids=batch["input_ids"]).logits[kept], batch["labels"][kept])
    assert ours.compute_loss(model, {name: batch[name] for name in ("input_ids", "labels")}).item() == (
        pytest.approx(expected.item(), rel=1e-5)
    )

    class Wrapped(torch.nn.Module):
        """As PEFT wraps a model."""

        def get_base_model(self):
            return model

    assert _predicts_next(Wrapped())


def test_another_vocabulary_is_refused(tmp_path):
    ours = trainer(language_model(), language_model(words=48), of_words(), tmp_path)
    with pytest.raises(InputError, match=r"logits\[\.\.\., :V\]"):
        ours.compute_loss(ours.model.train(), batch_of(of_words()))


def test_a_loss_of_tokens_is_not_put_into_another(tmp_path):
    with pytest.raises(InputError, match="pass the loss inside it"):
        trainer(language_model(), language_model(), of_words(), tmp_path, TokenLoss(shift=True))
