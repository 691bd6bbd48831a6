"""The vocabulary and tokenizer that stand in when no pretrained ones can be reached."""

from __future__ import annotations

import string
from collections.abc import Iterable, Iterator
from itertools import chain, islice, product

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from transformers import PreTrainedTokenizerFast

from common.lexicon import WORDS

VOCABULARY_SIZE = 30_522
SPECIAL_IDS = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103}
MAX_LENGTH = 512

# WordPiece gives up on words of more than 100 characters, so longer runs are cut first.
_LONGEST_RUN = Regex(".{64}")

_SUFFIXES = """
able ably ance ant ary ate ated ates ating ation ations ative ence ency ent ents ers ery est ful fully hood
ial ian ible ibly ical ically ied ier ies iest ified ify ing ings ion ions ious ise ish ism ist ists ity ive
ized izing less ling ment ments ness nesses ous ously ship sion sions some tion tional tions ture tures ual
ually ure ward wards ways wise
"""


def build_vocabulary() -> list[str]:
    """The tokens in the order of their ids; as many as BERT has, with the special ones where BERT has them.

    Every printable ASCII character is among them, so no word of ASCII characters is ever unknown.
    """
    unused = (f"[unused{number}]" for number in range(VOCABULARY_SIZE))
    special = {number: token for token, number in SPECIAL_IDS.items()}
    reserved = [special.get(number) or next(unused) for number in range(max(special) + 1)]
    return list(islice(dict.fromkeys(chain(reserved, _pieces(), unused)), VOCABULARY_SIZE))


def _pieces() -> Iterator[str]:
    """All pieces worth having, the most useful ones first, some of them repeatedly."""
    characters = sorted({chr(code).lower() for code in range(ord("!"), ord("~") + 1)})
    pairs = _strings(string.digits, 2) + _strings(string.ascii_lowercase, 2)
    triples = _strings(string.ascii_lowercase, 3)
    yield from chain(characters, _continued(characters), pairs, _continued(pairs))
    yield from chain(WORDS, triples, _continued(_SUFFIXES.split()))
    yield from _continued(triple for triple in triples if not set(triple).isdisjoint("aeiouy"))


def _strings(alphabet: str, length: int) -> list[str]:
    return ["".join(letters) for letters in product(alphabet, repeat=length)]


def _continued(pieces: Iterable[str]) -> Iterator[str]:
    return (f"##{piece}" for piece in pieces)


def fallback_tokenizer() -> PreTrainedTokenizerFast:
    """A lower-casing BERT tokenizer over `build_vocabulary`, made without reading any file."""
    tokenizer = Tokenizer(WordPiece({token: id_ for id_, token in enumerate(build_vocabulary())}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Split(_LONGEST_RUN, behavior="isolated")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(token, SPECIAL_IDS[token]) for token in ("[CLS]", "[SEP]")],
    )
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        model_max_length=MAX_LENGTH,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
