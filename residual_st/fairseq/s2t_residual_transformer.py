"""fairseq's `s2t_transformer` with shared layers in the encoder and, by flags, in the decoder."""

from fairseq import hub_utils
from fairseq.models import ARCH_CONFIG_REGISTRY, register_model, register_model_architecture
from fairseq.models.speech_to_text.s2t_transformer import S2TTransformerModel
from omegaconf import open_dict

from residual_st.errors import InputError
from residual_st.fairseq.build import refuse_unsupported
from residual_st.fairseq.chunks import Chunks
from residual_st.fairseq.flags import PARTS
from residual_st.fairseq.hub import S2TResidualHubInterface
from residual_st.fairseq.kinds.s2t_transformer import (
    DEFAULTS,
    S2TResidualTransformerEncoder,
    form_of_part,
    matrix_shapes,
)
from residual_st.fairseq.kinds.text_decoder import S2TResidualTransformerDecoder
from residual_st.fairseq.pretrained import load_pretrained
from residual_st.sharing import check_ranks
from residual_st.sharing.form import complete_flags

# settings of other fairseq encoders that the stock s2t encoder ignores
_IGNORED = {
    "encoder_layerdrop": "the s2t encoder, stock or residual, does not drop layers",
    "checkpoint_activations": "the s2t encoder, stock or residual, does not checkpoint activations",
}


@register_model("s2t_residual_transformer")
class S2TResidualTransformerModel(S2TTransformerModel):
    """`s2t_transformer` with `W[l] = U[g(l)] + A[l] B[l] + diag(d[l])` in the encoder (arXiv 2310.02489).

    With `--decoder-group-size` or the other decoder flags the decoder has this form too. Everything else, including the arguments,
    is the stock model's. With `--encoder-group-size 1 --encoder-residual-rank 0 --no-encoder-residual-diagonal` it equals the stock
    model, including parameters and random draws.
    """

    @classmethod
    def hub_models(cls):
        return {}

    @classmethod
    def from_pretrained(
        cls, model_name_or_path, checkpoint_file="model.pt", data_name_or_path=".", config_yaml="config.yaml", **overrides
    ) -> S2TResidualHubInterface:
        """A hub interface that translates audio files, like fairseq's function of this name.

        Args:
            model_name_or_path: the run's folder.
            checkpoint_file: file name in that folder.
            data_name_or_path: folder with the data configuration and the vocabulary.
            config_yaml: name of the data configuration.
            overrides: flags, such as `beam=5` or `encoder_inference_mode="fast"`. Models whose targets begin with a language tag
                get `prefix_size=1`, which fairseq requires.
        """
        loaded = hub_utils.from_pretrained(
            model_name_or_path, checkpoint_file, data_name_or_path, archive_map={}, config_yaml=config_yaml, **overrides
        )
        config, task = loaded["args"], loaded["task"]
        if task.data_cfg.prepend_tgt_lang_tag:
            with open_dict(config.generation):
                config.generation.prefix_size = 1
        return S2TResidualHubInterface(config, task, loaded["models"][0])

    sharing_defaults = DEFAULTS

    @staticmethod
    def add_args(parser):
        S2TTransformerModel.add_args.__wrapped__(parser)  # without the sharing flags, which have other defaults here
        parser.add_argument(
            "--load-pretrained-decoder-from", metavar="STR", help="model to take decoder weights from (for initialization)"
        )

    @classmethod
    def build_model(cls, args, task):
        base_architecture(args)
        return super().build_model(args, task)

    @classmethod
    def build_encoder(cls, args):
        encoder = S2TResidualTransformerEncoder(args, form_of_part(args, "encoder"))
        encoder.inference_mode = args.encoder_inference_mode
        load_pretrained(encoder, args, "load_pretrained_encoder_from")
        return encoder

    @classmethod
    def build_decoder(cls, args, task, embed_tokens):
        decoder = S2TResidualTransformerDecoder(args, task.target_dictionary, embed_tokens, form_of_part(args, "decoder"))
        decoder.inference_mode = args.decoder_inference_mode
        load_pretrained(decoder, args, "load_pretrained_decoder_from")
        return decoder


def _check(args) -> None:
    """Raise InputError for settings that are incompatible or would be silently ignored."""
    refuse_unsupported(args, "s2t_residual_transformer")
    for part in PARTS:
        check_ranks(form_of_part(args, part).ranks, matrix_shapes(args, part))
        width, heads = getattr(args, f"{part}_embed_dim"), getattr(args, f"{part}_attention_heads")
        if heads < 1 or width % heads:
            raise InputError(f"{part}_embed_dim={width} must be a multiple of {part}_attention_heads={heads}")
    if Chunks.of(args) and args.conv_version != "s2t_transformer":
        raise InputError(f"encoder_chunk_frames does not work with --conv-version {args.conv_version}; it must be s2t_transformer")
    for name, reason in _IGNORED.items():
        if getattr(args, name, None):
            raise InputError(f"{name}={getattr(args, name)} does not work with s2t_residual_transformer: {reason}")


@register_model_architecture("s2t_residual_transformer", "s2t_residual_transformer")
def base_architecture(args):
    for part in PARTS:
        complete_flags(args, f"{part}_", DEFAULTS[part])
        setattr(args, f"{part}_inference_mode", getattr(args, f"{part}_inference_mode", "compact"))
    ARCH_CONFIG_REGISTRY["s2t_transformer"](args)
    # fairseq calls this while parsing flags, so invalid settings are refused before any data is read
    _check(args)


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
