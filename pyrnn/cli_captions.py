# SPDX-License-Identifier: Apache-2.0
"""The command line of `pyrnn captions` and `pyrnn captions show`."""

from __future__ import annotations

import argparse
from typing import Any

from pyrnn.cli_options import add_config, given
from pyrnn.examples.config import CaptionsConfig

CHECKPOINT = "captions.safetensors"
#: Pictures that a plot has room for.
PLOTTED = 40


def add_captions(commands: Any) -> None:
    """Add the command and its action to the commands of `pyrnn`."""
    captions = commands.add_parser(
        "captions",
        help="train a model that names the digits of a picture, looking at one after the other",
        description="Train a model that captions pictures of handwritten digits. `pyrnn captions show` "
        "captions pictures it has never seen, and shows where it looked.",
        epilog="Ctrl-C stops after the step in hand and writes the checkpoint.",
    )
    captions.set_defaults(run=run_captions, prog=captions.prog)
    add_config(captions, CaptionsConfig)
    captions.add_argument("--checkpoint", metavar="FILE", default=CHECKPOINT, help="default: %(default)s")
    captions.add_argument("--resume", action="store_true", help="go on with the checkpoint and its options")
    captions.add_argument("--log", metavar="FILE", help="append every step's loss as a line of JSON")
    captions.add_argument("--quiet", action="store_true", help="print the result only")

    actions = captions.add_subparsers(metavar="[show]")
    show = actions.add_parser("show", help="caption pictures with a trained model")
    show.set_defaults(run=run_show, prog=show.prog)
    show.add_argument("--checkpoint", metavar="FILE", default=CHECKPOINT, help="default: %(default)s")
    show.add_argument("--count", metavar="N", type=int, default=3, help="pictures; default: %(default)s")
    show.add_argument("--plot", metavar="FILE", help="picture of where each word looked: PNG, SVG or PDF")


def run_captions(options: argparse.Namespace) -> int:
    """Train, from the beginning or from a checkpoint."""
    from pyrnn.examples.captions import Training, train

    values = given(options, CaptionsConfig)
    if options.resume:
        if values:
            raise ValueError(
                f"--resume takes its options from the checkpoint; leave --{next(iter(values))} away"
            )
        training = Training.resume(options.checkpoint)
    else:
        training = Training(CaptionsConfig(**values), options.checkpoint)
    return train(training, log=options.log, quiet=options.quiet)


def run_show(options: argparse.Namespace) -> int:
    """Print the captions of pictures of digits that training has not met, and what they should be."""
    from pyrnn.examples.canvases import caption
    from pyrnn.examples.captions import Checkpoint, unseen

    most = PLOTTED if options.plot else 1000
    if not 1 <= options.count <= most:
        plotted = " with --plot" if options.plot else ""
        raise ValueError(f"--count: expected a number from 1 to {most}{plotted}, got {options.count}")
    checkpoint = Checkpoint(options.checkpoint)
    model, canvases = checkpoint.model(), unseen(checkpoint.config, options.count)
    found = model.captions(canvases.images)
    for k in range(options.count):
        said, right = caption(found.tokens[k]), caption(canvases.tokens[k])
        print(said if said == right else f"{said}   (it is {right})")
    if options.plot:
        from pyrnn.examples.plots import plot_regions

        plot_regions(options.plot, canvases.images, found.tokens, model.regions(found.weights))
    return 0
