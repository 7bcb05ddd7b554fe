"""Patches of fairseq's training loop."""

from fairseq.logging import progress_bar
from fairseq.models import distributed_fairseq_model
from fairseq.models.ema import ema
from fairseq.nan_detector import NanDetector
from fairseq.trainer import Trainer

from residual_st.fairseq.patches.registry import patch
from residual_st.sharing import deep_copy
from residual_st.wrapping import wrap


@patch("cpu-ddp")
def distribute_on_cpus() -> None:
    """Allow `--ddp-backend pytorch_ddp`, fairseq's default, on CPUs: torch refuses the GPU index that fairseq passes."""

    @wrap(distributed_fairseq_model, "DistributedDataParallel")
    def distributed(before, module, device_ids=None, output_device=None, **keywords):
        if all(parameter.device.type == "cpu" for parameter in module.parameters()):
            device_ids = output_device = None
        return before(module, device_ids=device_ids, output_device=output_device, **keywords)


@patch("filling-batches")
def fill_up_with_training_batches() -> None:
    """If one of several processes has no batch left, use a training batch with loss weight 0.

    fairseq uses a validation batch, which a teacher's cache does not contain: the run would end after its first epoch.
    """

    @wrap(Trainer, "get_valid_iterator")
    def get_valid_iterator(before, self, *arguments, **keywords):
        batch = self._dummy_batch
        iterator = before(self, *arguments, **keywords)
        if batch is not None:
            self.reset_dummy_batch(batch)
        return iterator


@patch("log-file")
def write_each_line_once() -> None:
    """Let `--log-file` hold each line once: fairseq opens the file again for each epoch, and writes through all that are open."""
    opened = set()

    @wrap(progress_bar, "progress_bar")
    def bar(before, *arguments, log_file=None, **keywords):
        again = log_file in opened
        opened.add(log_file)
        return before(*arguments, log_file=None if again else log_file, **keywords)


@patch("broken-gradients")
def say_where_gradients_broke() -> None:
    """End a run whose gradients are not finite with that message and the module where it began.

    fairseq repeats the update with hooks on all modules, and torch cannot hook an encoder, whose output is a dict of lists: the run
    ended with StopIteration.
    """

    @wrap(NanDetector, "add_hooks")
    def add_hooks(before, self, module):
        backward, self.backward = self.backward, self.backward and not any(module.children())
        before(self, module)
        self.backward = backward


@patch("moving-averages")
def average_any_model() -> None:
    """Make `--store-ema` work for every kind of model.

    fairseq multiplies the batch counts of a Conformer's norms by the decay ("result type Float can't be cast to the desired output
    type Long"); this patch copies them. It also cannot copy a model that stores a tensor of its last call, such as ESPnet's
    attention and wav2vec's weight-normed convolution ("Only Tensors created explicitly by the user … support the deepcopy
    protocol").
    """

    @wrap(ema.EMA, "__init__")
    def build(before, self, model, config, device=None, skip_keys=None):
        counts = {name for name, value in model.state_dict().items() if not value.is_floating_point()}
        before(self, deep_copy(model), config, device, counts | set(skip_keys or ()))
