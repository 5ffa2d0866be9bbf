"""Makes a small random policy, to try records and rewards of your own without real weights."""

from __future__ import annotations

import argparse
import pathlib
import tempfile
from typing import TYPE_CHECKING, Annotated, cast

from corl_jax.commands.common import number, path_flag
from corl_jax.core.checks.config_block import Interval, PositiveInt, Seed
from corl_jax.core.errors import UserError

if TYPE_CHECKING:
    import tokenizers

VocabularySize = Annotated[int, Interval(ge=1, le=2**18)]
VOCABULARY_SIZE = 2048


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command."""
    parser.add_argument("--out", type=path_flag, required=True, help="new folder of the policy")
    parser.add_argument(
        "--size",
        choices=("tiny", "small"),
        default="small",
        help="small: images of 384 px in 576 tokens (default); tiny: 48 px in 36 tokens",
    )
    parser.add_argument(
        "--image-size", type=number(PositiveInt), help="side of its images (default: of the size)"
    )
    parser.add_argument("--seed", type=number(Seed), default=0, help="of the weights (default: 0)")

    # The tokenizer, and what it is trained on.
    parser.add_argument(
        "--tokenizer",
        choices=("byte", "bpe"),
        help="byte: a token per byte; bpe: longer ones too, trained on --data or --texts, "
        "with which it is the default",
    )
    parser.add_argument("--data", help="records to train it on, as config.data.source")
    parser.add_argument("--texts", type=path_flag, help="a text file to train it on, line by line")
    parser.add_argument(
        "--vocab-size",
        type=number(VocabularySize),
        default=VOCABULARY_SIZE,
        help=f"most ids of a bpe tokenizer (default: {VOCABULARY_SIZE})",
    )


def run(args: argparse.Namespace) -> int:
    """Writes the folder and prints what it holds."""
    # Imported here, so that help is quick.
    from corl_jax.core.types import Params
    from corl_jax.data.new_tokenizer import write_new_tokenizer
    from corl_jax.models.janus.config import NEW_SIZES, resized
    from corl_jax.models.janus.model import abstract
    from corl_jax.models.random_params import random_params
    from corl_jax.porting.writer import check_new_folder, save_folder

    check_new_folder(args.out)
    size = NEW_SIZES[args.size]
    image_size = args.image_size or size.image_size
    resized(size, image_size, size.decoder.vocab_size)  # the flag is checked before texts are read
    tokenizer = make_tokenizer(args)

    with tempfile.TemporaryDirectory() as folder:
        text_tokenizer = write_new_tokenizer(tokenizer, pathlib.Path(folder))
        cfg = resized(size, image_size, text_tokenizer.vocab_size)
        params = cast(Params, random_params(abstract(cfg), args.seed))
        save_folder(params, cfg, folder, args.out)

    total = sum(array.size for array in params.values())
    print(
        f"{args.out}: a random policy of {total / 1e6:.1f} M parameters, images of {image_size} px "
        f"in {cfg.image_tokens} tokens, a tokenizer of {text_tokenizer.vocab_size} ids that reads "
        "any text. It has learned nothing: its pictures are noise.\n"
        "Train it on records of your own (docs/own_data.md):\n"
        "  python -m corl_jax.main --config=configs/own_records.py "
        f"--config.init_from={args.out} --config.data.source={args.data or 'FOLDER'}"
    )
    return 0


def make_tokenizer(args: argparse.Namespace) -> tokenizers.Tokenizer:
    """The tokenizer that the flags ask for.

    Raises:
      UserError: flags that contradict each other, or texts that cannot be read.
    """
    from corl_jax.data.new_tokenizer import byte_tokenizer, record_texts, train_bpe
    from corl_jax.data.sources.addresses import open_source

    has_texts = args.data is not None or args.texts is not None
    kind = args.tokenizer or ("bpe" if has_texts else "byte")
    if kind == "byte" and has_texts:
        flag = "--data" if args.data is not None else "--texts"
        raise UserError(f"--tokenizer byte is not trained; leave {flag} out, or choose bpe")
    if kind == "byte":
        return byte_tokenizer()
    if not has_texts:
        raise UserError(
            "--tokenizer bpe must be trained on texts; add --data SOURCE or --texts FILE"
        )

    texts: list[str] = []
    if args.data is not None:
        texts += record_texts(open_source(args.data, "train"))
    if args.texts is not None:
        texts += read_lines(args.texts)
    return train_bpe(texts, args.vocab_size)


def read_lines(path: pathlib.Path) -> list[str]:
    """The lines of a text file.

    Raises:
      UserError: it cannot be read, or is no text in UTF-8.
    """
    try:
        return path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"--texts must be a text file in UTF-8; got {str(path)!r} ({error}). Name another"
        ) from None
