import torch
from torch import nn
from torch.nn import functional as F


class FeedForward(nn.Module):
    def __init__(self, dim, expansion):
        super().__init__()
        self.layernorm = nn.LayerNorm(dim)
        self.first_linear, self.second_linear = nn.Linear(dim, dim * expansion), nn.Linear(dim * expansion, dim)

    def forward(self, x):
        return self.second_linear(F.silu(self.first_linear(self.layernorm(x))))


class RelativeAttention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads, self.layer_norm = heads, nn.LayerNorm(dim)
        self.query_proj, self.key_proj, self.value_proj = (nn.Linear(dim, dim) for _ in range(3))
        self.pos_proj, self.out_proj = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim)
        self.u_bias, self.v_bias = (nn.Parameter(torch.zeros(heads, dim // heads)) for _ in range(2))

    def forward(self, x, padding_mask):
        (batch, time, dim), x = x.shape, self.layer_norm(x)
        angles = torch.arange(time).unsqueeze(1) / 10000 ** (torch.arange(dim) / dim)
        query, key, value = (
            proj(x).view(batch, time, self.heads, -1) for proj in (self.query_proj, self.key_proj, self.value_proj)
        )
        position = self.pos_proj(angles.sin().to(x).expand(batch, -1, -1)).view(batch, time, self.heads, -1)
        score = torch.einsum("bqhd,bkhd->bhqk", query + self.u_bias, key)
        score = score + torch.einsum("bqhd,bkhd->bhqk", query + self.v_bias, position)
        score = (score / dim**0.5).masked_fill(padding_mask[:, None, None], -1e4).softmax(-1)
        return self.out_proj(torch.einsum("bhqk,bkhd->bqhd", score, value).reshape(batch, time, dim))


class Convolution(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.layernorm, self.batchnorm = nn.LayerNorm(dim), nn.BatchNorm1d(dim)
        self.first_pointwise_conv1d, self.second_pointwise_conv1d = nn.Conv1d(dim, 2 * dim, 1), nn.Conv1d(dim, dim, 1)
        self.depthwise_conv1d = nn.Conv1d(dim, dim, 5, padding=2, groups=dim, bias=False)

    def forward(self, x, padding_mask):
        x = F.glu(self.first_pointwise_conv1d(self.layernorm(x).transpose(1, 2)), dim=1)
        x = self.depthwise_conv1d(x.masked_fill(padding_mask.unsqueeze(1), 0))
        x = self.second_pointwise_conv1d(F.silu(self.batchnorm(x))).masked_fill(padding_mask.unsqueeze(1), 0)
        return x.transpose(1, 2)


class ConformerEncoderLayer(nn.Module):
    def __init__(self, args):
        super().__init__()
        dim = args.encoder_embed_dim
        self.first_feed_forward = FeedForward(dim, args.feed_forward_expansion_factor)
        self.attention = RelativeAttention(dim, args.encoder_attention_heads)
        self.conv_module = Convolution(dim)
        self.second_feed_forward = FeedForward(dim, args.feed_forward_expansion_factor)
        self.layernorm = nn.LayerNorm(dim)

    def forward(self, x, padding_mask):
        x = x.transpose(0, 1)
        x = x + self.first_feed_forward(x) / 2
        x = x + self.attention(x, padding_mask)
        x = x + self.conv_module(x, padding_mask)
        x = x + self.second_feed_forward(x) / 2
        return self.layernorm(x).transpose(0, 1)
