"""UMT5's tokenizer: as its tokenizer.json says, or built from its SentencePiece model.

transformers' own class for T5 is not used: it takes token 2 for the unknown one and knows no bytes,
which holds for T5 and not for UMT5. Nothing in the folder chooses a class.
"""

from pathlib import Path
from typing import Any

from maskora.errors import UserError
from maskora.models.building import read_folder

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
JSON, SENTENCEPIECE = "tokenizer.json", "spiece.model"


def open_tokenizer(folder: Path) -> Any:
    """A tokenizer of transformers from a folder that has one of the two files."""
    from transformers import PreTrainedTokenizerFast

    if (folder / JSON).is_file():
        return read_folder(PreTrainedTokenizerFast, folder)
    return _from_sentencepiece(folder / SENTENCEPIECE)


def _from_sentencepiece(path: Path) -> Any:
    """Pieces, their scores and how text is normalised come from the model."""
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2
    from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers, processors
    from tokenizers.models import Unigram
    from transformers import PreTrainedTokenizerFast

    model = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise UserError(f"{path} is no SentencePiece model ({error})") from None
    spec, pieces = model.trainer_spec, [(piece.piece, piece.score) for piece in model.pieces]
    known = {name: getattr(spec, f"{name}_id") for name in ("pad", "eos", "unk")}
    if not all(0 <= number < len(pieces) for number in known.values()):
        raise UserError(f"{path} lacks one of the tokens pad, eos and unk: it is not UMT5's")
    pad, end, unknown = (pieces[number][0] for number in known.values())
    tokenizer = Tokenizer(Unigram(pieces, spec.unk_id, spec.byte_fallback))
    charsmap = model.normalizer_spec.precompiled_charsmap
    tokenizer.normalizer = normalizers.Sequence(
        [
            *([normalizers.Precompiled(charsmap)] if charsmap else []),
            normalizers.Strip(),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, spec.eos_id)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pad, eos_token=end, unk_token=unknown
    )
