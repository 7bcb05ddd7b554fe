"""fairseq's speech encoder with layers that share their matrices."""

import argparse

from fairseq.models.speech_to_text.s2t_transformer import S2TTransformerEncoder

from residual_st.compat import drop_fused_copies
from residual_st.fairseq.form import form_of_part
from residual_st.fairseq.layers.encoder_layer import ResidualTransformerEncoderLayer
from residual_st.fairseq.layers.shared_layers import share_new_layers, take_inference_form_
from residual_st.sharing import alike_in_groups


class S2TResidualTransformerEncoder(S2TTransformerEncoder):
    """The stock encoder with shared layers: `shared_weights` owns every U, `transformer_layers` the rest."""

    def __init__(self, args):
        form = form_of_part(args, "encoder")
        if form.is_dense:
            super().__init__(args)
        else:
            # without layers, so that a dense stack is never in memory
            super().__init__(argparse.Namespace(**{**vars(args), "encoder_layers": 0}))
            self.transformer_layers = alike_in_groups(form, lambda: ResidualTransformerEncoderLayer(args))
            drop_fused_copies(self.transformer_layers)
        self.inference_mode = args.encoder_inference_mode
        self.shared_weights = share_new_layers(self.transformer_layers, form)

    def prepare_for_inference_(self) -> None:
        """Take the form for translation, for good."""
        take_inference_form_(self)
