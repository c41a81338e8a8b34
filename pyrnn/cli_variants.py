# SPDX-License-Identifier: Apache-2.0
"""The command line of `pyrnn variants` and `pyrnn gradients`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from pyrnn.cli_options import add_config, given
from pyrnn.examples.config import GradientsConfig, VariantsConfig

if TYPE_CHECKING:
    from pyrnn.examples.running import Ran
    from pyrnn.examples.variants import Comparison

#: Cells that `pyrnn gradients` shows when none is named.
SHOWN = ("rnn_tanh", "gru", "lstm")


def add_variants(commands: Any) -> None:
    """Add both commands to those of `pyrnn`."""
    variants = commands.add_parser(
        "variants",
        help="train every cell on the same task, and compare them",
        description="Train every registered cell, or those named, on the same task from several seeds.",
        epilog="Ctrl-C ends with the trainings that are finished.",
    )
    variants.set_defaults(run=run_variants, prog=variants.prog)
    add_config(variants, VariantsConfig)
    variants.add_argument("--file", metavar="FILE", help="UTF-8 text of --task text; default: Python's own")
    add_files(variants, "every cell")

    gradients = commands.add_parser(
        "gradients",
        help="how gradients vanish on their way back through time, before and after training",
        description="Train cells on the adding problem, and show the length of the gradient of the loss at "
        "the last step by the state at every step before, at initialisation and after training.",
        epilog="Ctrl-C ends with the trainings that are finished.",
    )
    gradients.set_defaults(run=run_gradients, prog=gradients.prog)
    add_config(gradients, GradientsConfig)
    add_files(gradients, ", ".join(SHOWN))


def add_files(command: argparse.ArgumentParser, cells: str) -> None:
    """The options that both have."""
    command.add_argument(
        "--cell", metavar="NAME", action="append", help=f"a cell; repeatable; default: {cells}"
    )
    command.add_argument("--out", metavar="FILE", help="all figures as JSON")
    command.add_argument("--plot", metavar="FILE", help="picture: PNG, SVG or PDF")
    command.add_argument("--log", metavar="FILE", help="append every step's error as a line of JSON")
    command.add_argument("--quiet", action="store_true", help="print the result only")


def run_variants(options: argparse.Namespace) -> int:
    """Train the cells and print the comparison."""
    import pyrnn
    from pyrnn.examples.tasks import task_of
    from pyrnn.examples.variants import Comparison, conclusion, table

    config = VariantsConfig(**given(options, VariantsConfig))
    check(options)
    task = task_of(config, options.file)
    comparison = Comparison(options.cell or pyrnn.cells(), task, config, options.out)
    ran = trained(comparison, options)
    print("\n".join([*table(comparison), conclusion(comparison)]))
    if options.plot:
        from pyrnn.examples.variantplots import plot_variants

        plot_variants(options.plot, comparison)
    return ended(comparison, ran)


def run_gradients(options: argparse.Namespace) -> int:
    """Train the cells and print what is left of their gradients."""
    from pyrnn.examples.vanishing import Vanishing, seen, table

    config = GradientsConfig(**given(options, GradientsConfig))
    check(options)
    vanishing = Vanishing(options.cell or SHOWN, config, options.out)
    ran = trained(vanishing, options)
    print("\n".join([*table(vanishing), *seen(vanishing)]))
    if options.plot:
        from pyrnn.examples.variantplots import plot_gradients

        plot_gradients(options.plot, vanishing)
    return ended(vanishing, ran)


def check(options: argparse.Namespace) -> None:
    """Whether a plot can be written."""
    if options.plot:
        from pyrnn.examples.variantplots import check_plot

        check_plot(options.plot)


def trained(comparison: Comparison, options: argparse.Namespace) -> Ran:
    """Run all trainings, or those before Ctrl-C."""
    from pyrnn.examples.running import run

    config, cells = comparison.options, len(comparison.cells)
    header = (
        f"{config.task}, sequences of {config.length}, {cells} cells x {config.seeds} seeds, "
        f"{config.steps} updates of {config.batch} sequences each"
    )
    return run(comparison, header, log=options.log, quiet=options.quiet)


def ended(comparison: Comparison, ran: Ran) -> int:
    """Exit code, and after Ctrl-C a line that says how much is missing."""
    from pyrnn.examples.running import INTERRUPTED

    if not ran.interrupted:
        return 0
    runs = len(comparison.cells) * comparison.options.seeds
    print(f"interrupted: {len(comparison.results)} of {runs} trainings are finished")
    return INTERRUPTED
