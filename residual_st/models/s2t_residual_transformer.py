"""fairseq's `s2t_transformer` with an encoder whose layers share their matrices."""

import argparse

from fairseq import hub_utils
from fairseq.models import ARCH_CONFIG_REGISTRY, register_model, register_model_architecture
from fairseq.models.speech_to_text.s2t_transformer import S2TTransformerEncoder, S2TTransformerModel
from omegaconf import open_dict
from torch import nn

from residual_st.compat import drop_fused_copies, reconcile_versions
from residual_st.errors import InputError
from residual_st.models.encoder_layer import ResidualTransformerEncoderLayer
from residual_st.models.form import ENCODER_DEFAULTS, ENCODER_MATRICES, encoder_form
from residual_st.models.hub_interface import S2TResidualHubInterface
from residual_st.models.pretrained import load_pretrained
from residual_st.models.subsampler import fastest_subsampler
from residual_st.sharing import (
    ResidualLinear,
    alike_in_groups,
    check_ranks,
    measure_products,
    share_layers,
    transpose_storage_,
)
from residual_st.sharing.form import add_flags, complete_flags

LAST_OF_A_BRANCH = ("self_attn.out_proj", "fc2")  # whose output is added to the layer's input

INFERENCE_MODES = ("compact", "fast")

# Settings that other fairseq encoders have and the stock s2t encoder ignores, or that act on a weight the layer does not own.
_UNSUPPORTED = {
    "quant_noise_pq": "quantisation noise writes into each layer's own weight, and a shared one has none",
    "encoder_layerdrop": "the s2t encoder, stock or residual, does not drop layers",
    "checkpoint_activations": "the s2t encoder, stock or residual, does not checkpoint activations",
}


@register_model("s2t_residual_transformer")
class S2TResidualTransformerModel(S2TTransformerModel):
    """`s2t_transformer` with `W[l] = U[g(l)] + A[l] B[l] + diag(d[l])` in the encoder (arXiv 2310.02489).

    Everything else, arguments included, is the stock model's. With `--encoder-group-size 1 --encoder-residual-rank 0
    --no-encoder-residual-diagonal` it is the stock model, parameter for parameter and draw for draw.
    """

    @classmethod
    def hub_models(cls):
        return {}

    @classmethod
    def from_pretrained(
        cls, model_name_or_path, checkpoint_file="model.pt", data_name_or_path=".", config_yaml="config.yaml", **overrides
    ) -> S2TResidualHubInterface:
        """A model that translates audio files, as fairseq's function of this name has it.

        Args:
            model_name_or_path: the run's folder.
            checkpoint_file: in that folder.
            data_name_or_path: folder with the data configuration and the vocabulary.
            config_yaml: the data configuration's name.
            overrides: flags, such as `beam=5` or `encoder_inference_mode="fast"`. Models whose targets begin with a language tag
                get `prefix_size=1`, which fairseq asks for.
        """
        loaded = hub_utils.from_pretrained(
            model_name_or_path, checkpoint_file, data_name_or_path, archive_map={}, config_yaml=config_yaml, **overrides
        )
        config, task = loaded["args"], loaded["task"]
        if task.data_cfg.prepend_tgt_lang_tag:
            with open_dict(config.generation):
                config.generation.prefix_size = 1
        return S2TResidualHubInterface(config, task, loaded["models"][0])

    @staticmethod
    def add_args(parser):
        S2TTransformerModel.add_args(parser)
        add_flags(parser, "encoder_", *ENCODER_DEFAULTS)
        parser.add_argument(
            "--encoder-inference-mode",
            choices=INFERENCE_MODES,
            help="for translation: compact keeps the shared form in memory; fast composes every weight once and takes the memory "
            "of a dense encoder (default: compact)",
        )
        parser.add_argument(
            "--load-pretrained-decoder-from", metavar="STR", help="model to take decoder weights from (for initialization)"
        )

    @classmethod
    def build_model(cls, args, task):
        base_architecture(args)
        return super().build_model(args, task)

    @classmethod
    def build_encoder(cls, args):
        encoder = S2TResidualTransformerEncoder(args)
        load_pretrained(encoder, args, "load_pretrained_encoder_from")
        return encoder

    @classmethod
    def build_decoder(cls, args, task, embed_tokens):
        decoder = super().build_decoder(args, task, embed_tokens)
        load_pretrained(decoder, args, "load_pretrained_decoder_from")
        return decoder

    def prepare_for_inference_(self, cfg):
        super().prepare_for_inference_(cfg)
        self.encoder.prepare_for_inference_()

    def upgrade_state_dict_named(self, state_dict, name):
        # first the version marks, which fairseq's moving average leaves out: without them the decoder would drop its last norm
        reconcile_versions(state_dict, self.state_dict())
        super().upgrade_state_dict_named(state_dict, name)


class S2TResidualTransformerEncoder(S2TTransformerEncoder):
    """The stock encoder with shared layers: `shared_weights` owns every U, `transformer_layers` the rest."""

    def __init__(self, args):
        form = encoder_form(args)
        if form.is_dense:
            super().__init__(args)
        else:
            # without layers, so that a dense stack is never in memory
            super().__init__(argparse.Namespace(**{**vars(args), "encoder_layers": 0}))
            self.transformer_layers = alike_in_groups(form.plan, lambda: ResidualTransformerEncoderLayer(args))
        self.inference_mode = args.encoder_inference_mode
        self.shared_weights = share_layers(self.transformer_layers, form)
        if len(self.shared_weights):
            drop_fused_copies(self.transformer_layers)
            self._start_branches_at_zero_()

    def _start_branches_at_zero_(self) -> None:
        """Start the shared matrices that end a residual branch at 0, so that at first every layer passes on its input.

        What layers with one matrix add to the stream points the same way, so that it grows with their number, and not with its root
        as that of layers with matrices of their own does (docs/from_scratch.md; for dense networks Zhang et al., Fixup,
        arXiv 1901.09321).
        """
        for owner in self.shared_weights.values():
            for name in LAST_OF_A_BRANCH:
                nn.init.zeros_(owner[name.replace(".", "_")])

    def prepare_for_inference_(self) -> None:
        """Take the form for translation, for good: with `fast` every weight is composed and its terms are let go."""
        if not len(self.shared_weights):
            return
        if self.inference_mode == "fast":
            for layer in self.transformer_layers:
                layer.compose_()
            self.shared_weights = nn.ModuleDict()
        self.subsample = fastest_subsampler(self.subsample)
        transpose_storage_(self)
        residuals = [module for module in self.transformer_layers.modules() if isinstance(module, ResidualLinear)]
        measure_products([residual.all_terms for residual in residuals])


def refuse_unsupported(args) -> None:
    """Raise InputError for settings that do not go together, or would otherwise be ignored without a word."""
    width, inner = args.encoder_embed_dim, args.encoder_ffn_embed_dim
    shapes = {"fc1": (inner, width), "fc2": (width, inner)}
    check_ranks(encoder_form(args).ranks, {name: shapes.get(name, (width, width)) for name in ENCODER_MATRICES})
    for part in ("encoder", "decoder"):
        width, heads = getattr(args, f"{part}_embed_dim"), getattr(args, f"{part}_attention_heads")
        if heads < 1 or width % heads:
            raise InputError(f"{part}_attention_heads={heads} does not divide {part}_embed_dim={width}")
    if args.encoder_inference_mode not in INFERENCE_MODES:  # argparse does not see those of --model-overrides
        raise InputError(
            f"encoder_inference_mode {args.encoder_inference_mode!r} is not known; allowed are {', '.join(INFERENCE_MODES)}"
        )
    for name, reason in _UNSUPPORTED.items():
        if getattr(args, name, None):
            raise InputError(f"{name}={getattr(args, name)} does not work with s2t_residual_transformer: {reason}")


@register_model_architecture("s2t_residual_transformer", "s2t_residual_transformer")
def base_architecture(args):
    complete_flags(args, "encoder_", *ENCODER_DEFAULTS)
    args.encoder_inference_mode = getattr(args, "encoder_inference_mode", "compact")
    ARCH_CONFIG_REGISTRY["s2t_transformer"](args)
    # fairseq calls this while it parses flags, so what cannot work is refused before any data is read
    refuse_unsupported(args)


@register_model_architecture("s2t_residual_transformer", "s2t_residual_transformer_paper")
def paper_architecture(args):
    """The encoder of arXiv 2310.02489: 18 layers of width 512 with 8 heads and a feed-forward width of 2048."""
    args.encoder_layers = getattr(args, "encoder_layers", 18)
    args.encoder_embed_dim = getattr(args, "encoder_embed_dim", 512)
    args.encoder_ffn_embed_dim = getattr(args, "encoder_ffn_embed_dim", 2048)
    args.encoder_attention_heads = getattr(args, "encoder_attention_heads", 8)
    base_architecture(args)


def _register_size(suffix: str) -> None:
    @register_model_architecture("s2t_residual_transformer", f"s2t_residual_transformer_{suffix}")
    def architecture(args):
        ARCH_CONFIG_REGISTRY[f"s2t_transformer_{suffix}"](args)
        base_architecture(args)


for _suffix in ("xs", "s", "sp", "m", "mp", "l", "lp"):
    _register_size(_suffix)
