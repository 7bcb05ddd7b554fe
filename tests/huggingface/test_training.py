"""Fine-tuning shared models with transformers' Trainer."""

import pytest
import torch

huggingface = pytest.importorskip("residual_st.huggingface")
pytest.importorskip("accelerate")
from safetensors.torch import load_file  # noqa: E402
from tiny_models import make, outputs  # noqa: E402
from transformers import AutoModelForSpeechSeq2Seq, Seq2SeqTrainer, Seq2SeqTrainingArguments  # noqa: E402

from residual_st.compression import CompressionConfig, compress  # noqa: E402
from residual_st.sharing import ResidualLinear  # noqa: E402


class Batches(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return {"input_features": torch.randn(80, 3000, generator=generator), "labels": torch.tensor([5, 6 + index, 2])}


@pytest.fixture
def shared(tmp_path):
    model = make("whisper", tmp_path / "dense")
    compress(model, CompressionConfig(group_size=2, rank=3))
    model.save_pretrained(tmp_path / "shared")
    return tmp_path / "shared"


def trainer(folder, output):
    settings = Seq2SeqTrainingArguments(
        output,
        max_steps=20,
        per_device_train_batch_size=1,
        learning_rate=1e-2,
        eval_strategy="steps",
        eval_steps=10,
        save_steps=10,
        load_best_model_at_end=True,
        predict_with_generate=True,
        generation_max_length=6,
        gradient_checkpointing=True,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    model = AutoModelForSpeechSeq2Seq.from_pretrained(folder)
    return Seq2SeqTrainer(model, settings, train_dataset=Batches(), eval_dataset=Batches())


def losses(training):
    return {row["step"]: row["eval_loss"] for row in training.state.log_history if "eval_loss" in row}


def test_trainer_fine_tunes_and_resumes(shared, tmp_path):
    """Every U, A, B and d changes, checkpoints contain each U once, and a resumed run equals an uninterrupted one."""
    training = trainer(shared, tmp_path / "run")
    before = {name: value.clone() for name, value in training.model.state_dict().items()}
    training.train()
    encoder = training.model.get_encoder()
    assert all(isinstance(layer.fc1, ResidualLinear) for layer in encoder.layers)
    terms = [*encoder.shared_weights.parameters()]
    terms += [term for module in encoder.modules() if isinstance(module, ResidualLinear) for term in module.terms]
    ids = {id(term) for term in terms}
    moved = {name for name, value in training.model.named_parameters() if id(value) in ids and not torch.equal(value, before[name])}
    assert len(moved) == len(ids) == 2 * 6 + 4 * 6 * 3
    assert losses(training)[20] < losses(training)[10]
    stored = load_file(tmp_path / "run" / "checkpoint-10" / "model.safetensors")
    assert stored.keys() == load_file(shared / "model.safetensors").keys()

    best = AutoModelForSpeechSeq2Seq.from_pretrained(training.state.best_model_checkpoint)
    assert torch.equal(outputs(best), outputs(training.model.eval()))

    resumed = trainer(shared, tmp_path / "run")
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-10"))
    assert losses(resumed) == pytest.approx(losses(training), rel=1e-5)
