"""Prints which faults of fairseq are fixed in this process, by the name of the patch: `python faults_of_fairseq.py DATA FOLDER`.

Three functions of fairseq are wrapped first, as another package might do; the number of calls of these wrappers is printed, too.
"""

import argparse
import contextlib
import functools
import json
import shutil
import sys
import zipfile
from collections import Counter
from pathlib import Path
from unittest.mock import MagicMock

import fairseq_cli.train  # noqa: F401 - sets up logging, as fairseq's commands do
import numpy as np
import torch
from fairseq import checkpoint_utils, tasks
from fairseq.data import Dictionary, data_utils
from fairseq.data.audio import audio_utils
from fairseq.data.audio.speech_to_text_dataset import SpeechToTextDataset
from fairseq.data.encoders.sentencepiece_bpe import SentencepieceBPE
from fairseq.dataclass.configs import EMAConfig
from fairseq.distributed import utils as distributed_utils
from fairseq.file_io import PathManager
from fairseq.logging import progress_bar
from fairseq.models import distributed_fairseq_model
from fairseq.models.ema.ema import EMA
from fairseq.models.hubert.hubert_asr import HubertCtcConfig, HubertEncoder
from fairseq.models.wav2vec.wav2vec2_asr import Wav2VecEncoder
from fairseq.nan_detector import NanDetector
from fairseq.trainer import Trainer
from omegaconf import OmegaConf

calls = Counter()


def wrap_as_another_package(owner, name: str) -> None:
    before = getattr(owner, name)

    @functools.wraps(before)
    def wrapper(*arguments, **keywords):
        calls[name] += 1
        return before(*arguments, **keywords)

    setattr(owner, name, wrapper)


wrap_as_another_package(data_utils, "batch_by_size")
wrap_as_another_package(PathManager, "copy")
wrap_as_another_package(SpeechToTextDataset, "__getitem__")

import residual_st.models  # noqa: E402, F401
from residual_st.errors import InputError  # noqa: E402
from residual_st.fairseq.checkpoints import stripped  # noqa: E402
from residual_st.fairseq.patches import apply_patches  # noqa: E402
from residual_st.fairseq.standalone import build_model, parse_model_flags  # noqa: E402

apply_patches()  # a second call has no effect
data, folder = map(Path, sys.argv[1:])
torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)


def is_fixed(check) -> bool:
    try:
        return bool(check())
    except Exception:
        return False


def whole_checkpoint_copies():
    new, last = folder / "new.pt", folder / "last.pt"
    new.write_bytes(b"new")
    last.write_bytes(b"before")
    whole = shutil.copyfile

    def interrupted(source, target):
        Path(target).write_bytes(b"ne")
        raise KeyboardInterrupt

    shutil.copyfile = interrupted
    try:
        PathManager.copy(str(new), str(last), overwrite=True)
    except KeyboardInterrupt:
        return last.read_bytes() == b"before"
    finally:
        shutil.copyfile = whole


def namespace_flags():
    torch.save({"args": argparse.Namespace()}, folder / "namespace.pt")
    return torch.load(folder / "namespace.pt", weights_only=True)


def checked_checkpoints():
    with zipfile.ZipFile(folder / "damaged.pt", "w") as archive:
        archive.writestr("damaged/data.pkl", b"no pickle")
    try:
        checkpoint_utils.load_checkpoint_to_cpu(str(folder / "damaged.pt"))
    except InputError:
        return True


def retired_architectures():
    arch = "s2t_low_rank_transformer"
    torch.save(stripped({"cfg": {"model": {"arch": arch}}, "model": {}}), folder / "old.pt")
    try:
        checkpoint_utils.load_checkpoint_to_cpu(str(folder / "old.pt"))
    except InputError as error:
        return "--encoder-group-size 1" in str(error)


def other_versions():
    model = build_model(parse_model_flags("s2t_transformer_xs", ["--encoder-layers", "1", "--decoder-layers", "1"]), 8)
    state = {**model.state_dict(), "encoder.version": torch.ones(1)}  # as in checkpoints of versions before 0.10
    model.upgrade_state_dict_named(state, "")
    return model.load_state_dict(state)


def resuming_processes():
    sent = distributed_utils.broadcast_object({"cfg": "omegaconf's"}, 0, torch.distributed.group.WORLD)
    return sent["cfg"] is None and distributed_utils._TensorPlaceholder in torch.serialization.get_safe_globals()


def last_batches():
    return sum(map(len, data_utils.batch_by_size(np.arange(3), None, np.ones(3, dtype=np.int64), 100, None, 2))) == 3


def seeded_augmentation():
    flags = {"data": str(data), "config_yaml": "config_st.yaml", "seed": 1, "train_subset": "train_st"}
    flags |= {"max_source_positions": 6000, "max_target_positions": 1024}
    task = tasks.setup_task(argparse.Namespace(task="speech_to_text", **flags))
    task.load_dataset("train_st")
    return torch.equal(*(task.dataset("train_st")[0].source for _ in range(2)))


def bytes_as_letters():
    return SentencepieceBPE.decode(None, "▁a <0xE7> <0x88> <0xB1> b") == "a爱b"


def dictionaries():
    torch.save({"target_dictionary": Dictionary()}, folder / "dictionary.pt")
    return torch.load(folder / "dictionary.pt", weights_only=True)


def wav2vec_flags():
    try:
        Wav2VecEncoder(argparse.Namespace(w2v_path=str(folder / "missing.pt")))
    except OSError:  # the error of the next step, which reads the file
        return True


def hubert_ctc():
    cfg = OmegaConf.structured(HubertCtcConfig(w2v_path=str(folder / "missing.pt")))
    with contextlib.suppress(OSError):
        HubertEncoder(cfg, None)
    return cfg.autoregressive is False


def waveforms():
    sys.modules["torchaudio"] = None  # makes its import fail
    return audio_utils.convert_waveform(np.zeros((1, 4)), 16_000, to_mono=True, to_sample_rate=16_000)


def cpu_ddp():
    return distributed_fairseq_model.DistributedDataParallel(torch.nn.Linear(2, 2), device_ids=[0], output_device=0)


def filling_batches():
    trainer = MagicMock(_dummy_batch="of the training set")
    Trainer.get_valid_iterator(trainer, "dev")
    return trainer.reset_dummy_batch.call_args.args == ("of the training set",)


def log_file():
    path = str(folder / "train.log")
    for _ in range(2):  # two epochs
        progress_bar.progress_bar([], log_format="simple", log_file=path)
    return sum(getattr(handler, "baseFilename", None) == path for handler in progress_bar.logger.handlers) == 1


def broken_gradients():
    class Encoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(2, 2)

        def forward(self, x):
            return {"encoder_out": [self.linear(x)]}

    model = Encoder()
    with NanDetector(model):
        model(torch.ones(1, 2))["encoder_out"][0].sum().backward()
    return True


def moving_averages():
    model = torch.nn.Sequential(torch.nn.utils.weight_norm(torch.nn.Linear(2, 2)), torch.nn.BatchNorm1d(2))
    model(torch.ones(2, 2))
    average = EMA(model, EMAConfig())
    average.step(model)
    return average.get_model()[1].num_batches_tracked == 1


faults = (
    whole_checkpoint_copies, namespace_flags, checked_checkpoints, retired_architectures, other_versions, resuming_processes,
    last_batches, seeded_augmentation, bytes_as_letters, dictionaries, wav2vec_flags, hubert_ctc, waveforms, cpu_ddp,
    filling_batches, log_file, broken_gradients, moving_averages,
)  # fmt: skip
free = [fault.__name__.replace("_", "-") for fault in faults if is_fixed(fault)]
print(json.dumps({"fixed": free, "active": apply_patches(), "calls": calls}))
