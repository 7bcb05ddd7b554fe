"""fairseq's label-smoothed loss, with optional CTC, for models whose layers carry residuals."""

from collections import defaultdict
from dataclasses import dataclass, field

import torch
from fairseq.criterions import register_criterion
from fairseq.criterions.label_smoothed_cross_entropy_with_ctc import (
    LabelSmoothedCrossEntropyWithCtcCriterion,
    LabelSmoothedCrossEntropyWithCtcCriterionConfig,
)
from fairseq.logging import metrics
from torch import Tensor, nn

from residual_st.errors import InputError
from residual_st.modules import ResidualLinear, matrix_kind


@dataclass
class LabelSmoothedCrossEntropyWithResidualCriterionConfig(LabelSmoothedCrossEntropyWithCtcCriterionConfig):
    ctc_weight: float = field(default=0.0, metadata={"help": "weight of the joint CTC loss; 0 for none"})
    residual_penalty: float = field(
        default=0.0, metadata={"help": "weight of the residuals' energy ||A B + diag(d)||^2, summed over matrices and layers"}
    )


@register_criterion("label_smoothed_cross_entropy_with_residual", dataclass=LabelSmoothedCrossEntropyWithResidualCriterionConfig)
class LabelSmoothedCrossEntropyWithResidualCriterion(LabelSmoothedCrossEntropyWithCtcCriterion):
    """Label-smoothed cross entropy + `ctc_weight` CTC + `residual_penalty` residual energy.

    With both weights at 0 it is fairseq's `label_smoothed_cross_entropy`. In training it logs, for each kind of matrix, the energy
    (squared Frobenius norm) of the residuals over that of the shared weights they are added to, as `residual_KIND`.
    """

    def __init__(self, task, sentence_avg, label_smoothing, ignore_prefix_size, report_accuracy, ctc_weight, residual_penalty):
        super().__init__(task, sentence_avg, label_smoothing, ignore_prefix_size, report_accuracy, ctc_weight)
        self.residual_penalty = residual_penalty

    def forward(self, model, sample, reduce=True):
        loss, sample_size, logging_output = super().forward(model, sample, reduce)
        if not self.ctc_weight:
            del logging_output["ctc_loss"]
        if not model.training:
            return loss, sample_size, logging_output
        with torch.set_grad_enabled(self.residual_penalty > 0):
            energies = residual_energies(model)
        if self.residual_penalty > 0:
            if not energies:
                raise InputError("--residual-penalty has nothing to act on: the model has no residuals")
            penalty = self.residual_penalty * sum(residual for residual, _ in energies.values())
            # fairseq divides the loss by the sample size, which must not touch the penalty
            loss = loss + penalty.to(loss.dtype) * sample_size
            logging_output["residual_penalty"] = penalty.detach() * sample_size
        for kind, (residual, shared) in energies.items():
            logging_output[f"residual_energy_{kind}"] = residual.detach()
            logging_output[f"shared_energy_{kind}"] = shared
        return loss, sample_size, logging_output

    @classmethod
    def reduce_metrics(cls, logging_outputs) -> None:
        first = logging_outputs[0] if logging_outputs else {}
        stock = super() if "ctc_loss" in first else super(LabelSmoothedCrossEntropyWithCtcCriterion, cls)
        stock.reduce_metrics(logging_outputs)
        if "residual_penalty" in first:
            sample_size = sum(log["sample_size"] for log in logging_outputs)
            metrics.log_scalar("residual_penalty", _total(logging_outputs, "residual_penalty") / sample_size, sample_size, round=4)
        for key in first:
            if key.startswith("residual_energy_"):
                kind = key.removeprefix("residual_energy_")
                ratio = _total(logging_outputs, key) / _total(logging_outputs, f"shared_energy_{kind}")
                metrics.log_scalar(f"residual_{kind}", ratio, round=4)


def _total(logging_outputs: list[dict], key: str):
    return sum(log[key] for log in logging_outputs)


def residual_energies(model: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """Matrix kind -> (energy of the residuals, energy of the shared weights), both summed over layers, as float32 scalars.

    The second is without gradient: the penalty is meant to shrink residuals, not to inflate what they are compared with.
    """
    by_kind = defaultdict(list)
    for name, module in model.named_modules():
        if isinstance(module, ResidualLinear):
            by_kind[matrix_kind(name)].append(module)
    energies = {}
    for kind, layers in by_kind.items():
        with torch.no_grad():
            weights = {id(layer.shared_weight): layer.shared_weight for layer in layers}
            norms = {key: weight.float().square().sum() for key, weight in weights.items()}
            shared_energy = sum(norms[id(layer.shared_weight)] for layer in layers)
        energies[kind] = (sum(layer.residual_energy() for layer in layers), shared_energy)
    return energies
