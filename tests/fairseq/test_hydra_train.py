"""fairseq-hydra-train, for models whose flags are a dataclass."""

import sys

import torch
import yaml
from conftest import USER_DIR, run
from kinds import make_data

LAYERS = {"encoder_layers": 4, "encoder_embed_dim": 16, "encoder_ffn_embed_dim": 24, "encoder_attention_heads": 2, "final_dim": 8}
CONVOLUTIONS = {"conv_feature_layers": "[(16,10,5),(16,8,4),(16,4,4),(16,4,4)]", "conv_pos": 8, "conv_pos_groups": 2}
DATASET = {
    "num_workers": 0,
    "batch_size": 2,
    "train_subset": "train",
    "disable_validation": True,
    "required_batch_size_multiple": 1,
}


def test_sharing_flags_are_fields_of_the_configuration(tmp_path):
    make_data(tmp_path / "data")
    config = {
        "common": {"cpu": True, "user_dir": str(USER_DIR)},
        "checkpoint": {"save_dir": str(tmp_path / "run")},
        "task": {"_name": "audio_pretraining", "data": str(tmp_path / "data" / "letters")},
        "dataset": DATASET,
        "criterion": {"_name": "wav2vec", "infonce": True},
        "optimization": {"max_update": 2, "lr": [0.003]},
        "optimizer": {"_name": "adam"},
        "lr_scheduler": {"_name": "fixed"},
        "model": {"_name": "wav2vec2", "quantize_targets": True, "num_negatives": 4, "mask_length": 2, **LAYERS, **CONVOLUTIONS},
    }
    (tmp_path / "small.yaml").write_text("# @package _group_\n" + yaml.safe_dump(config), encoding="utf-8")
    flags = ["--config-dir", tmp_path, "--config-name", "small", "+model.encoder_group_size=2", "+model.encoder_residual_rank=4"]
    run(sys.executable, "-m", "residual_st.fairseq.hydra_train", *flags, cwd=tmp_path)
    state = torch.load(tmp_path / "run" / "checkpoint_last.pt", weights_only=True)
    assert state["cfg"]["model"]["encoder_group_size"] == 2
    assert state["model"]["encoder.shared_weights.layer_groups"].tolist() == [0, 0, 1, 1]
    assert state["model"]["encoder.layers.3.fc1.up"].shape == (24, 4)
