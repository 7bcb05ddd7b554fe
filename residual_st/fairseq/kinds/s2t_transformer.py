"""fairseq's speech Transformer: `s2t_transformer`, and the encoder of `s2t_residual_transformer`."""

import argparse

from fairseq.models import FairseqDecoder, FairseqEncoder
from fairseq.models.speech_to_text.s2t_transformer import S2TTransformerEncoder
from fairseq.modules.transformer_layer import TransformerEncoderLayer, TransformerEncoderLayerBase
from torch import nn

from residual_st.compat import drop_fused_copies
from residual_st.fairseq.chunks import Chunks, attending_in_chunks
from residual_st.fairseq.flags import requested
from residual_st.fairseq.kinds.kind import EncoderParts, Kind, Part
from residual_st.fairseq.kinds.text_decoder import DECODER
from residual_st.fairseq.layers.encoder_layer import ResidualTransformerEncoderLayer
from residual_st.fairseq.layers.shared_layers import share_new_layers, take_inference_form_
from residual_st.sharing import SharedForm, alike_in_groups
from residual_st.sharing.form import Defaults
from residual_st.stacks.symmetries import Symmetry, symmetries_of


def _symmetries(layer: TransformerEncoderLayerBase) -> list[Symmetry]:
    return symmetries_of(layer, ["self_attn"], layer.activation_fn)


def _parts(encoder: FairseqEncoder) -> EncoderParts | None:
    if type(encoder) not in (S2TTransformerEncoder, S2TResidualTransformerEncoder):
        return None
    return EncoderParts(
        subsampler=encoder.subsample,
        scale=encoder.embed_scale,
        has_positions=True,
        projection=None,
        layers=encoder.transformer_layers,
        norm=encoder.layer_norm,
        ctc=encoder.ctc_proj,
        chunks=getattr(encoder, "chunks", None),
    )


ENCODER = Part(
    path="encoder.transformer_layers",
    output_projections=frozenset({"out_proj", "fc2"}),
    layers=(TransformerEncoderLayerBase,),
    symmetries=_symmetries,
    faster=dict.fromkeys((TransformerEncoderLayer, TransformerEncoderLayerBase), ResidualTransformerEncoderLayer),
    parts=_parts,
)

KIND = Kind(
    "s2t_transformer",
    models=("s2t_transformer", "s2t_residual_transformer"),
    encoder=ENCODER,
    decoder=DECODER,
    shared_model="s2t_residual_transformer",
)


DEFAULTS = {"encoder": Defaults(3, 2, True), "decoder": Defaults(1, 0, False)}  # of s2t_residual_transformer


def matrix_shapes(args, part: str) -> dict[str, tuple[int, int]]:
    """The matrices of an encoder or decoder layer, name -> (out, in), in fairseq's order of registration."""
    width, inner = getattr(args, f"{part}_embed_dim"), getattr(args, f"{part}_ffn_embed_dim")
    shapes = _attention_shapes("self_attn", width, width)
    if part == "decoder":
        shapes |= _attention_shapes("encoder_attn", width, args.encoder_embed_dim)
    return {**shapes, "fc1": (inner, width), "fc2": (width, inner)}


def _attention_shapes(name: str, width: int, source_width: int) -> dict[str, tuple[int, int]]:
    inputs = {"k_proj": source_width, "v_proj": source_width, "q_proj": width, "out_proj": width}
    return {f"{name}.{projection}": (width, size) for projection, size in inputs.items()}


def layers_of(part: FairseqEncoder | FairseqDecoder) -> nn.ModuleList:
    """The layers of an encoder or decoder of this kind."""
    return part.transformer_layers if hasattr(part, "transformer_layers") else part.layers


def form_of_part(args, part: str) -> SharedForm:
    """The form of the encoder or decoder described by the flags of an s2t_residual_transformer."""
    layers, matrices = getattr(args, f"{part}_layers"), tuple(matrix_shapes(args, part))
    return SharedForm.make(layers, matrices, *requested(args, part, DEFAULTS).values())


class S2TResidualTransformerEncoder(S2TTransformerEncoder):
    """The stock encoder with shared layers: `shared_weights` owns every U, `transformer_layers` the rest.

    Attributes:
        chunks: chunked attention; None for full attention.
    """

    def __init__(self, args, form: SharedForm):
        if form.is_dense:
            super().__init__(args)
        else:  # built without layers, so that a dense stack is never in memory
            super().__init__(argparse.Namespace(**{**vars(args), "encoder_layers": 0}))
            self._add_layers(args, form)
        self.chunks = Chunks.of(args)

    def _add_layers(self, args, form: SharedForm) -> None:
        self.transformer_layers = alike_in_groups(form, lambda: ResidualTransformerEncoderLayer(args))
        drop_fused_copies(self.transformer_layers)
        self.shared_weights = share_new_layers(self.transformer_layers, form, ENCODER.is_output_projection)

    def forward(self, src_tokens, src_lengths, return_all_hiddens=False):
        """fairseq's forward pass, with chunked attention if configured; in training, the chunk size is drawn for each batch."""
        if not self.chunks:
            return super().forward(src_tokens, src_lengths, return_all_hiddens)
        frames = self.chunks.sampled() if self.training else self.chunks.frames[0]
        with attending_in_chunks(self.transformer_layers, frames, self.chunks.left):
            return super().forward(src_tokens, src_lengths, return_all_hiddens)

    def prepare_for_inference_(self) -> None:
        """Convert shared layers to their form for translation, permanently."""
        if hasattr(self, "shared_weights"):
            take_inference_form_(self, self.transformer_layers)
