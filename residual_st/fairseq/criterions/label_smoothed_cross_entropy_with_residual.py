"""fairseq's label-smoothed loss for models with residuals, with optional CTC loss and distillation loss."""

import contextlib
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Optional

import torch
from fairseq.criterions import register_criterion
from fairseq.criterions.label_smoothed_cross_entropy_with_ctc import (
    LabelSmoothedCrossEntropyWithCtcCriterion,
    LabelSmoothedCrossEntropyWithCtcCriterionConfig,
)
from fairseq.logging import metrics
from torch import Tensor, nn

from residual_st.errors import InputError
from residual_st.fairseq.distillation import Distillation
from residual_st.sharing import ResidualLinear, matrix_kind, residual_energies


@dataclass
class LabelSmoothedCrossEntropyWithResidualCriterionConfig(LabelSmoothedCrossEntropyWithCtcCriterionConfig):
    ctc_weight: float = field(default=0.0, metadata={"help": "weight of the joint CTC loss; 0 for none"})
    residual_penalty: float = field(
        default=0.0, metadata={"help": "weight of the penalty on residuals, ||A B + diag(d)||^2 summed over matrices and layers"}
    )
    distill_from: Optional[str] = field(  # noqa: UP045 - fairseq makes flags of this form only
        default=None, metadata={"help": "teacher for distillation: a checkpoint, or a folder written by residual-st cache-teacher"}
    )
    distill_weight: float = field(
        default=0.5, metadata={"help": "weight of the distillation loss on words, from 0 to 1; the labels have the rest"}
    )
    distill_temperature: float = field(
        default=1.0, metadata={"help": "temperature of teacher and student distributions in the distillation loss"}
    )
    distill_encoder_weight: float = field(
        default=0.0, metadata={"help": "weight of the difference between encoder states; needs the teacher's checkpoint"}
    )


@register_criterion("label_smoothed_cross_entropy_with_residual", dataclass=LabelSmoothedCrossEntropyWithResidualCriterionConfig)
class LabelSmoothedCrossEntropyWithResidualCriterion(LabelSmoothedCrossEntropyWithCtcCriterion):
    """Label-smoothed cross entropy + `ctc_weight` CTC + `residual_penalty` residual energy, and the distillation loss.

    With all weights 0 it equals fairseq's `label_smoothed_cross_entropy`. In training it logs, for each kind of matrix, the energy
    (squared Frobenius norm) of the residuals / that of the shared weights, as `residual_KIND`.

    With `distill_from`, the training loss on words becomes `(1 - distill_weight)` * cross entropy + `distill_weight` *
    `word_divergence`, and `distill_encoder_weight` * the mean `state_difference` over `layer_map`'s pairs of layers is added per
    unit of sample size. The validation loss has no distillation loss, so that it is comparable with other runs.
    """

    def __init__(
        self, task, sentence_avg, label_smoothing, ignore_prefix_size, report_accuracy, ctc_weight, residual_penalty,
        distill_from, distill_weight, distill_temperature, distill_encoder_weight,
    ):  # fmt: skip
        super().__init__(task, sentence_avg, label_smoothing, ignore_prefix_size, report_accuracy, ctc_weight)
        self.residual_penalty = residual_penalty
        flags = (distill_weight, distill_temperature, distill_encoder_weight)
        config = LabelSmoothedCrossEntropyWithResidualCriterionConfig
        defaults = (config.distill_weight, config.distill_temperature, config.distill_encoder_weight)
        if distill_from is None and flags != defaults:
            raise InputError(
                "--distill-weight, --distill-temperature and --distill-encoder-weight need a teacher, given by --distill-from"
            )
        self._distillation = distill_from and Distillation(distill_from, *flags, len(task.target_dictionary))
        self._teacher_loss = None  # for the current batch

    def forward(self, model, sample, reduce=True):
        distills = model.training and self._distillation
        with self._distillation.teacher_loss(model, sample) if distills else contextlib.nullcontext() as self._teacher_loss:
            loss, sample_size, logging_output = super().forward(model, sample, reduce)
        if not self.ctc_weight:
            del logging_output["ctc_loss"]
        if not model.training:
            return loss, sample_size, logging_output
        if self._teacher_loss is not None:
            loss = loss + self._teacher_loss.state_penalty() * sample_size
            logging_output |= self._teacher_loss.log(sample_size)
        with torch.set_grad_enabled(self.residual_penalty > 0):
            energies = energies_by_kind(model)
        if self.residual_penalty > 0:
            if not energies:
                raise InputError("--residual-penalty needs a model with residuals, and this one has none")
            penalty = self.residual_penalty * sum(residual for residual, _ in energies.values())
            # fairseq divides the loss by the sample size, which must not affect the penalty
            loss = loss + penalty.to(loss.dtype) * sample_size
            logging_output["residual_penalty"] = penalty.detach() * sample_size
        for kind, (residual, shared) in energies.items():
            logging_output[f"residual_energy_{kind}"] = residual.detach()
            logging_output[f"shared_energy_{kind}"] = shared
        return loss, sample_size, logging_output

    def compute_loss(self, model, net_output, sample, reduce=True):
        loss, nll_loss = super().compute_loss(model, net_output, sample, reduce)
        if self._teacher_loss is not None:
            counted = sample["target"].ne(self.padding_idx)
            counted[:, : self.ignore_prefix_size] = False
            loss = self._teacher_loss.mix(loss, net_output[0], counted)
        return loss, nll_loss

    @classmethod
    def reduce_metrics(cls, logging_outputs) -> None:
        first = logging_outputs[0] if logging_outputs else {}
        stock: Any = super() if "ctc_loss" in first else super(LabelSmoothedCrossEntropyWithCtcCriterion, cls)
        stock.reduce_metrics(logging_outputs)
        sample_size = sum(log["sample_size"] for log in logging_outputs)
        for key in ("residual_penalty", "distill_loss", "distill_encoder_loss"):
            if key in first:
                metrics.log_scalar(key, _total(logging_outputs, key) / sample_size, sample_size, round=4)
        for key in first:
            if key.startswith("residual_energy_"):
                kind = key.removeprefix("residual_energy_")
                shared = _total(logging_outputs, f"shared_energy_{kind}")
                if shared > 0:  # the output projections (`out_proj`, `fc2`) start at 0
                    metrics.log_scalar(f"residual_{kind}", _total(logging_outputs, key) / shared, round=4)


def _total(logging_outputs: list[dict], key: str):
    return sum(log[key] for log in logging_outputs)


def energies_by_kind(model: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """Matrix kind -> (energy of the residuals, energy of the shared weights), both summed over layers, as float32 scalars.

    The decoder's kinds have their own names, such as `decoder_q_proj`, which combine its two attentions.

    The second has no gradient: the penalty must shrink residuals, not increase shared weights.
    """
    by_kind: dict[str, dict[tuple, list[ResidualLinear]]] = defaultdict(lambda: defaultdict(list))
    for name, module in model.named_modules():
        if isinstance(module, ResidualLinear) and module.shared_weight is not None:
            part = "decoder_" if "decoder" in name.split(".") else ""
            by_kind[part + matrix_kind(name)][module.shared_weight.shape, module.rank].append(module)
    energies = {}
    for kind, alike in by_kind.items():
        with torch.no_grad():
            weights = [linear.shared_weight for linears in alike.values() for linear in linears]
            owned = [weight for weight in weights if weight is not None]
            norms = {weight: weight.float().square().sum() for weight in dict.fromkeys(owned)}
            shared_energy = _summed([norms[weight] for weight in owned])
        energies[kind] = (_summed([residual_energies(linears).sum() for linears in alike.values()]), shared_energy)
    return energies


def _summed(tensors: list[Tensor]) -> Tensor:
    return sum(tensors[1:], tensors[0])
