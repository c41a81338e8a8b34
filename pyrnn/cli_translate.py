# SPDX-License-Identifier: Apache-2.0
"""The command line of `pyrnn translate`, `pyrnn translate apply` and `pyrnn translate evaluate`."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

from pyrnn.cli_options import add_config, given
from pyrnn.examples.config import TranslateConfig

if TYPE_CHECKING:
    from pyrnn.examples.translator import Quality

CHECKPOINT = "translate.safetensors"


def add_translate(commands: Any) -> None:
    """Add the command and its actions to the commands of `pyrnn`."""
    translate = commands.add_parser(
        "translate",
        help="train an encoder and a decoder with attention, and translate with them",
        description="Train a model that reads dates in many languages, or the texts of a file, and writes "
        "others. `pyrnn translate apply` translates with it, `pyrnn translate evaluate` tests it.",
        epilog="Ctrl-C stops after the step in hand and writes the checkpoint.",
    )
    translate.set_defaults(run=run_translate, prog=translate.prog)
    add_config(translate, TranslateConfig)
    translate.add_argument(
        "--no-attention", action="store_true", help="only the encoder's last state; short for --score none"
    )
    translate.add_argument(
        "--pairs", metavar="FILE", help="UTF-8 lines of source, tab, target; default: dates, from babel"
    )
    translate.add_argument("--checkpoint", metavar="FILE", default=CHECKPOINT, help="default: %(default)s")
    translate.add_argument("--resume", action="store_true", help="go on with the checkpoint and its options")
    translate.add_argument("--log", metavar="FILE", help="append every step's loss as a line of JSON")
    translate.add_argument("--quiet", action="store_true", help="print the result only")

    actions = translate.add_subparsers(metavar="[apply | evaluate]")
    apply = actions.add_parser("apply", help="translate with a trained model")
    apply.set_defaults(run=run_apply, prog=apply.prog)
    apply.add_argument("texts", metavar="TEXT", nargs="*", help="default: the lines of standard input")
    apply.add_argument("--checkpoint", metavar="FILE", default=CHECKPOINT, help="default: %(default)s")
    add_search(apply)
    apply.add_argument("--plot", metavar="FILE", help="picture of the alignment of one text: PNG, SVG or PDF")

    evaluate = actions.add_parser("evaluate", help="test trained models, by the length of the source")
    evaluate.set_defaults(run=run_evaluate, prog=evaluate.prog)
    evaluate.add_argument("checkpoints", metavar="CHECKPOINT", nargs="*", default=[CHECKPOINT])
    evaluate.add_argument("--pairs", metavar="FILE", help="when it is no longer where it was")
    add_search(evaluate)
    evaluate.add_argument("--plot", metavar="FILE", help="picture of the curves: PNG, SVG or PDF")


def add_search(action: argparse.ArgumentParser) -> None:
    """The options of the search."""
    action.add_argument("--beam", metavar="N", type=int, default=1, help="1 is greedy; default: %(default)s")
    action.add_argument(
        "--length-penalty", metavar="X", type=float, default=0.0, help="of Wu et al. 2016; default: 0"
    )


def check_search(options: argparse.Namespace) -> None:
    """ValueError for a search that makes no sense."""
    if not 1 <= options.beam <= 1000:
        raise ValueError(f"--beam: expected a number from 1 to 1000, got {options.beam}")
    if not 0 <= options.length_penalty < 100:
        raise ValueError(f"--length-penalty: expected a number from 0, got {options.length_penalty}")


def run_translate(options: argparse.Namespace) -> int:
    """Train, from the beginning or from a checkpoint."""
    from pyrnn.examples.translate import Training, train

    values = given(options, TranslateConfig)
    if options.no_attention:
        if values.setdefault("score", "none") != "none":
            raise ValueError("--no-attention: expected no --score beside it")
    if options.resume:
        if values:
            name = "no-attention" if options.no_attention else next(iter(values))
            raise ValueError(f"--resume takes its options from the checkpoint; leave --{name} away")
        training = Training.resume(options.checkpoint, options.pairs)
    else:
        training = Training(TranslateConfig(**values), options.pairs, options.checkpoint)
    return train(training, log=options.log, quiet=options.quiet)


def run_apply(options: argparse.Namespace) -> int:
    """Print the translation of every text, one a line."""
    from pyrnn.examples.translate import Checkpoint

    check_search(options)
    if options.plot and len(options.texts) != 1:
        raise ValueError(f"--plot: expected one text, got {len(options.texts)}")
    checkpoint = Checkpoint(options.checkpoint)
    if options.plot and checkpoint.config.score == "none":
        raise ValueError("--plot: expected a model with attention, got one without")
    translator = checkpoint.translator()
    for text in options.texts or (line.rstrip("\r\n") for line in sys.stdin):
        answer = translator.translate([text], options.beam, options.length_penalty)[0]
        print(answer.text, flush=True)
        if options.plot:
            from pyrnn.examples.plots import plot_alignment

            plot_alignment(options.plot, text, answer.text, answer.weights)
    return 0


def run_evaluate(options: argparse.Namespace) -> int:
    """Print exact match and BLEU of every checkpoint, a line for each range of lengths."""
    from pyrnn.examples.translate import Checkpoint, examine
    from pyrnn.examples.translator import by_length

    check_search(options)
    curves = {}
    for path in options.checkpoints:
        checkpoint = Checkpoint(path)
        corpus = checkpoint.corpus(options.pairs)
        texts, whole = examine(checkpoint.translator(), corpus, options.beam, options.length_penalty)
        print(f"{path}: attention {checkpoint.config.score}, {checkpoint.progress.best_step} steps")
        rows = by_length(texts, corpus.test)
        print("  characters  examples  exact match, %    BLEU")
        for (low, high), found in rows:
            print(row(f"{low}-{high}", found))
        print(row("all", whole), flush=True)
        curves[os.path.basename(path).removesuffix(".safetensors")] = rows
    if options.plot:
        from pyrnn.examples.plots import plot_lengths

        plot_lengths(options.plot, curves)
    return 0


def row(name: str, found: Quality) -> str:
    """A line of the table."""
    bleu = "-" if found.bleu is None else f"{found.bleu:.2f}"
    return f"  {name:>10}  {found.examples:8}  {100 * found.exact:14.2f}  {bleu:>6}"
