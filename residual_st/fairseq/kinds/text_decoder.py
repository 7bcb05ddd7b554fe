"""fairseq's Transformer text decoder, used by most kinds of models."""

import argparse

from fairseq.models.speech_to_text.s2t_transformer import TransformerDecoderScriptable
from fairseq.models.transformer import TransformerConfig
from fairseq.modules.transformer_layer import TransformerDecoderLayer, TransformerDecoderLayerBase
from torch import Tensor

from residual_st.fairseq.kinds.kind import Part
from residual_st.fairseq.layers.decoder_layer import ResidualTransformerDecoderLayer
from residual_st.fairseq.layers.shared_layers import share_new_layers, take_inference_form_
from residual_st.sharing import SharedForm, alike_in_groups
from residual_st.stacks.symmetries import Symmetry, symmetries_of


def _symmetries(layer: TransformerDecoderLayerBase) -> list[Symmetry]:
    return symmetries_of(layer, ["self_attn", "encoder_attn"], layer.activation_fn)


def _boolean(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else mask.bool()


DECODER = Part(
    path="decoder.layers",
    output_projections=frozenset({"out_proj", "fc2"}),
    layers=(TransformerDecoderLayerBase,),
    symmetries=_symmetries,
    faster={TransformerDecoderLayerBase: ResidualTransformerDecoderLayer, TransformerDecoderLayer: ResidualTransformerDecoderLayer},
    known={
        "padding": lambda _arguments, keywords: _boolean(keywords.get("self_attn_padding_mask")),
        "memory_padding": lambda arguments, _keywords: _boolean(arguments[2]),
        "memory_matrices": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
    },
)


class S2TResidualTransformerDecoder(TransformerDecoderScriptable):
    """The stock decoder with shared layers: `shared_weights` owns every U, `layers` the rest."""

    def __init__(self, args, dictionary, embed_tokens, form: SharedForm):
        if form.is_dense:
            super().__init__(args, dictionary, embed_tokens)
            return
        # built without layers, so that a dense stack is never in memory
        super().__init__(argparse.Namespace(**{**vars(args), "decoder_layers": 0}), dictionary, embed_tokens)
        config = TransformerConfig.from_namespace(args)
        self.layers.extend(alike_in_groups(form, lambda: ResidualTransformerDecoderLayer(config)))
        self.num_layers = len(self.layers)
        for layer in self.layers:  # copies of a layer would have the same key in the cache of keys and values
            layer.self_attn.init_incremental_state()
            layer.encoder_attn.init_incremental_state()
        self.shared_weights = share_new_layers(self.layers, form, DECODER.is_output_projection)

    def prepare_for_inference_(self) -> None:
        """Convert shared layers to their form for translation, permanently."""
        if hasattr(self, "shared_weights"):
            take_inference_form_(self, self.layers)
