"""Word pieces are joined to texts as by sentencepiece, also in fairseq's commands."""

import io
from argparse import Namespace

import pytest
import sentencepiece
from fairseq.data import encoders
from hypothesis import given
from hypothesis import strategies as st

import residual_st.models  # noqa: F401 - patches fairseq
from residual_st.pieces import joined_pieces


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    """A model with a piece for each byte (--byte_fallback)."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["wir lieben die Stadt", "die Stadt liebt uns", "eine Stadt <sep> ein Wort"] * 5),
        model_writer=model,
        vocab_size=300,
        byte_fallback=True,
        user_defined_symbols=["<sep>"],
        hard_vocab_limit=False,
        minloglevel=2,
    )
    path = tmp_path_factory.mktemp("pieces") / "spm.model"
    path.write_bytes(model.getvalue())
    return sentencepiece.SentencePieceProcessor(model_file=str(path)), path


LETTERS = st.characters(codec="utf-8").map(lambda letter: [f"<0x{byte:02X}>" for byte in letter.encode()])
BYTES = st.integers(0, 255).map(lambda byte: [f"<0x{byte:02X}>"])
PLACES = st.integers(0, 1000)  # indices of other pieces


@given(st.lists(LETTERS | BYTES | PLACES, max_size=8))
def test_pieces_are_joined_as_by_sentencepiece(pieces, parts):
    processor, _ = pieces
    words = [
        processor.id_to_piece(number)
        for number in range(processor.get_piece_size())
        if not (processor.is_byte(number) or processor.is_control(number) or processor.is_unknown(number))
    ]
    assert "<sep>" in words and "▁" in words
    drawn = [piece for part in parts for piece in (part if isinstance(part, list) else [words[part % len(words)]])]
    assert joined_pieces(drawn).strip(" ") == processor.decode_pieces(drawn).strip(" ")


def test_fairseq_decodes_bytes_to_characters(pieces):
    """In the decoder that fairseq-generate and the hub interface use."""
    processor, path = pieces
    bpe = encoders.build_bpe(Namespace(bpe="sentencepiece", sentencepiece_model=str(path)))
    text = "die Stadt 爱 uns 🙂"
    assert "<0xE7>" in bpe.encode(text)
    assert bpe.decode(bpe.encode(text)) == text
