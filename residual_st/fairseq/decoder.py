"""fairseq's text decoder with layers that share their matrices."""

import argparse

from fairseq.models.speech_to_text.s2t_transformer import TransformerDecoderScriptable
from fairseq.models.transformer import TransformerConfig

from residual_st.fairseq.form import form_of_part
from residual_st.fairseq.layers.decoder_layer import ResidualTransformerDecoderLayer
from residual_st.fairseq.layers.shared_layers import share_new_layers, take_inference_form_
from residual_st.sharing import alike_in_groups


class S2TResidualTransformerDecoder(TransformerDecoderScriptable):
    """The stock decoder with shared layers: `shared_weights` owns every U, `layers` the rest."""

    def __init__(self, args, dictionary, embed_tokens):
        form = form_of_part(args, "decoder")
        if form.is_dense:
            super().__init__(args, dictionary, embed_tokens)
        else:
            # without layers, so that a dense stack is never in memory
            super().__init__(argparse.Namespace(**{**vars(args), "decoder_layers": 0}), dictionary, embed_tokens)
            config = TransformerConfig.from_namespace(args)
            self.layers.extend(alike_in_groups(form, lambda: ResidualTransformerDecoderLayer(config)))
            self.num_layers = len(self.layers)
            for layer in self.layers:  # copies of a layer would share its key in the cache of keys and values
                layer.self_attn.init_incremental_state()
                layer.encoder_attn.init_incremental_state()
        self.inference_mode = args.decoder_inference_mode
        self.shared_weights = share_new_layers(self.layers, form)

    def prepare_for_inference_(self) -> None:
        """Take the form for translation, for good."""
        take_inference_form_(self)
