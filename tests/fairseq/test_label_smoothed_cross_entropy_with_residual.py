import pytest
import torch
from conftest import tiny_model

from residual_st.fairseq.criterions.label_smoothed_cross_entropy_with_residual import energies_by_kind
from residual_st.sharing import ResidualLinear

CRITERION = "label_smoothed_cross_entropy_with_residual"


def test_loss_equals_the_stock_loss_if_its_weights_are_zero(fairseq_train, data, tmp_path):
    stock = fairseq_train(data, tmp_path / "stock", max_update=4, report_accuracy=True)
    assert fairseq_train(data, tmp_path / "residual", max_update=4, report_accuracy=True, criterion=CRITERION) == stock
    ctc = {"max_update": 4, "task": "asr", "ctc_weight": 0.3}
    stock = fairseq_train(data, tmp_path / "stock_ctc", criterion="label_smoothed_cross_entropy_with_ctc", **ctc)
    assert fairseq_train(data, tmp_path / "residual_ctc", criterion=CRITERION, **ctc) == stock


def test_penalty_shrinks_residuals_and_their_energy_is_logged(fairseq_train, data, tmp_path, caplog):
    def energy(name):
        state = torch.load(tmp_path / name / "checkpoint_last.pt", weights_only=True)["model"]
        return sum(value.square().sum() for key, value in state.items() if key.endswith(("up", "diagonal")))

    caplog.set_level("INFO", logger="fairseq")
    fairseq_train(data, tmp_path / "free", max_update=8, criterion=CRITERION)
    line = next(record.getMessage() for record in caplog.records if record.name == "train")
    for kind in ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"):
        assert f"residual_{kind}" in line
    assert "ctc_loss" not in line
    assert "residual_penalty" not in line
    caplog.clear()
    fairseq_train(data, tmp_path / "penalised", max_update=8, criterion=CRITERION, residual_penalty=100)
    assert "residual_penalty" in next(record.getMessage() for record in caplog.records if record.name == "train")
    assert energy("penalised") < 0.5 * energy("free")


def test_stock_model_is_accepted_without_a_penalty(fairseq_train, data, tmp_path):
    stock = {"arch": "s2t_transformer_s", "max_update": 2}
    assert fairseq_train(data, tmp_path / "a", criterion=CRITERION, **stock) == fairseq_train(data, tmp_path / "b", **stock)
    with pytest.raises(ValueError, match="--residual-penalty needs a model with residuals"):
        fairseq_train(data, tmp_path / "c", criterion=CRITERION, residual_penalty=1, **stock)


def test_energies_are_norms_of_the_residuals():
    model = tiny_model(encoder_residual_rank="2,3,0,2,2,2")
    residuals = [(name, module) for name, module in model.named_modules() if isinstance(module, ResidualLinear)]
    for _, module in residuals:
        if module.rank:
            torch.nn.init.normal_(module.up)
        torch.nn.init.normal_(module.diagonal)
    energies = energies_by_kind(model)
    assert list(energies) == ["k_proj", "v_proj", "q_proj", "out_proj", "fc1", "fc2"]
    for kind, (residual, shared) in energies.items():
        members = [module for name, module in residuals if name.endswith(kind)]
        torch.testing.assert_close(residual, sum((m.weight - m.shared_weight).square().sum() for m in members))
        torch.testing.assert_close(shared, sum(m.shared_weight.square().sum() for m in members))
        assert residual.requires_grad
        assert not shared.requires_grad
