from fairseq.data.data_utils import lengths_to_padding_mask
from fairseq.models import FairseqEncoder, register_model, register_model_architecture
from fairseq.models.speech_to_text.s2t_transformer import (
    Conv1dSubsampler,
    S2TTransformerEncoder,
    S2TTransformerModel,
    base_architecture,
)
from torch import nn

from examples.foreign_speech.modules.conformer_encoder_layer import ConformerEncoderLayer


@register_model("foreign_conformer")
class ConformerModel(S2TTransformerModel):
    @staticmethod
    def add_args(parser):
        S2TTransformerModel.add_args(parser)
        parser.add_argument("--feed-forward-expansion-factor", type=int, default=4)

    @classmethod
    def build_encoder(cls, args):
        return ConformerEncoder(args)


class ConformerEncoder(FairseqEncoder):
    def __init__(self, args):
        super().__init__(None)
        kernel_sizes = [int(size) for size in args.conv_kernel_sizes.split(",")]
        channels = args.input_feat_per_channel * args.input_channels
        self.subsample = Conv1dSubsampler(channels, args.conv_channels, args.encoder_embed_dim, kernel_sizes)
        self.conformer_layers = nn.ModuleList(ConformerEncoderLayer(args) for _ in range(args.encoder_layers))

    def forward(self, src_tokens, src_lengths, return_all_hiddens=False):
        x, lengths = self.subsample(src_tokens, src_lengths)
        padding_mask, states = lengths_to_padding_mask(lengths), []
        for layer in self.conformer_layers:
            x = layer(x, padding_mask)
            states.append(x)
        return {
            "encoder_out": [x],
            "encoder_padding_mask": [padding_mask] if padding_mask.any() else [],
            "encoder_embedding": [],
            "encoder_states": states if return_all_hiddens else [],
            "src_tokens": [],
            "src_lengths": [],
        }

    def reorder_encoder_out(self, encoder_out, new_order):
        return S2TTransformerEncoder.reorder_encoder_out(self, encoder_out, new_order)


@register_model_architecture("foreign_conformer", "foreign_conformer")
def conformer_architecture(args):
    base_architecture(args)
