# SPDX-License-Identifier: Apache-2.0
"""The command line: `pyrnn info`, `check`, `bench`, `convert`, and the examples, `charlm` to `gradients`.

Every command imports what it needs when it runs.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from argparse import PARSER
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from pyrnn.cli_bench import add_bench
from pyrnn.cli_captions import add_captions
from pyrnn.cli_convert import add_convert
from pyrnn.cli_options import add_config, given
from pyrnn.cli_translate import add_translate
from pyrnn.cli_variants import add_variants
from pyrnn.examples.config import Config

DESCRIPTION = "Recurrent layers with fused kernels."
CHECKPOINT = "charlm.safetensors"


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and exit with code 2."""
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """That of the base class, which takes what follows an unknown option for a command's name."""
        known = self._option_string_actions
        for word in sys.argv[1:] if args is None else args:
            if word == "--" or any(word in (a.choices or ()) for a in self._actions if a.nargs == PARSER):
                break
            name = word.partition("=")[0]
            if re.fullmatch(r"--?[a-z][a-z-]*", name) and not any(o.startswith(name) for o in known):
                meant = get_close_matches(name, known, 1)
                self.error(f"unrecognized arguments: {word}" + "".join(f"; did you mean {m}?" for m in meant))
        return super().parse_known_args(args, namespace)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    arguments : strings, optional
        Those of the process when None.

    Returns
    -------
    int
        Exit code: 0, 1 for a failure, 2 for wrong arguments or files, 130 after Ctrl-C.
    """
    options = parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.run
    try:
        code = command(options)
        sys.stdout.flush()  # a closed pipe must show here, and not when Python shuts down
        return code
    except KeyboardInterrupt:
        print("pyrnn: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read our output, `head` for one, has enough. Python must not try to flush it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (OSError, ValueError) as error:
        print(f"{options.prog}: error: {one_line(error)}", file=sys.stderr)
        return 2
    except (ArithmeticError, MemoryError) as error:
        print(f"{options.prog}: error: {one_line(error)}", file=sys.stderr)
        return 1


def one_line(error: Exception) -> str:
    """An error's message on one line, a missing file's with its name in front."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    top = Parser(prog="pyrnn", description=DESCRIPTION)
    commands = top.add_subparsers(metavar="command", required=True)

    info = commands.add_parser("info", help="what is installed and which instructions it uses")
    info.set_defaults(run=run_info, prog=info.prog)

    check = commands.add_parser(
        "check",
        help="check every cell's gradients on this machine",
        description="Check every cell on this machine, from the formula to the float32 kernels.",
    )
    check.set_defaults(run=run_check, prog=check.prog)

    charlm = commands.add_parser(
        "charlm",
        help="train a character-level language model, or write text with it",
        description="Train a character-level language model. `pyrnn charlm sample` writes text with it.",
        epilog="Ctrl-C stops after the step in hand and writes the checkpoint.",
    )
    charlm.set_defaults(run=run_charlm, prog=charlm.prog)
    add_training_options(charlm)
    actions = charlm.add_subparsers(metavar="[sample]")
    sample = actions.add_parser("sample", help="write text with a trained model")
    sample.set_defaults(run=run_sample, prog=sample.prog)
    sample.add_argument("--checkpoint", metavar="FILE", default=CHECKPOINT, help="default: %(default)s")
    sample.add_argument(
        "--length", metavar="N", type=int, default=1000, help="characters; default: %(default)s"
    )
    sample.add_argument(
        "--temperature", metavar="X", type=float, default=0.8, help="0: likeliest; default: %(default)s"
    )
    sample.add_argument("--prime", metavar="TEXT", default="", help="text to go on with")
    sample.add_argument("--seed", metavar="N", type=int, help="of the draws; default: another each time")

    add_translate(commands)
    add_captions(commands)
    add_variants(commands)
    add_bench(commands)
    add_convert(commands)
    return top


def add_training_options(charlm: argparse.ArgumentParser) -> None:
    """Those of `Config` and those of the files."""
    add_config(charlm, Config)
    charlm.add_argument(
        "--text", metavar="FILE", help="UTF-8 text to learn; default: Python's own help texts"
    )
    charlm.add_argument("--checkpoint", metavar="FILE", default=CHECKPOINT, help="default: %(default)s")
    charlm.add_argument("--resume", action="store_true", help="go on with the checkpoint and its options")
    charlm.add_argument("--log", metavar="FILE", help="append every step's loss as a line of JSON")
    charlm.add_argument("--quiet", action="store_true", help="print the result only")


def run_charlm(options: argparse.Namespace) -> int:
    """Train, from the beginning or from a checkpoint."""
    from pyrnn.examples.charlm import Training, train

    values = given(options, Config)
    if options.resume:
        if values:
            raise ValueError(
                f"--resume takes its options from the checkpoint; leave --{next(iter(values))} away"
            )
        training = Training.resume(options.checkpoint, options.text)
    else:
        training = Training(Config(**values), options.text, options.checkpoint)
    return train(training, log=options.log, quiet=options.quiet)


def run_sample(options: argparse.Namespace) -> int:
    """Write text to standard output, character by character."""
    from itertools import islice

    from pyrnn.examples.checkpoint import Checkpoint
    from pyrnn.examples.sampling import sample

    if options.length < 0:
        raise ValueError(f"--length: expected a number from 0, got {options.length}")
    if options.seed is not None and options.seed < 0:
        raise ValueError(f"--seed: expected a number from 0, got {options.seed}")
    checkpoint = Checkpoint(options.checkpoint)
    text = sample(checkpoint.model(), checkpoint.alphabet, options.prime, options.temperature, options.seed)
    sys.stdout.write(options.prime)
    for character in islice(text, options.length):
        sys.stdout.write(character)
        sys.stdout.flush()
    sys.stdout.write("\n")
    return 0


def run_info(options: argparse.Namespace) -> int:
    """Print what is installed, one property a line."""
    from pyrnn.diagnostics import properties

    rows = properties()
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:<{width}}  {value}")
    return 0


def run_check(options: argparse.Namespace) -> int:
    """Print one line per check; 1 when one of them failed."""
    from pyrnn import _core
    from pyrnn.diagnostics import checks_of

    print(f"instruction set {_core.isa()}, {_core.num_threads()} threads")
    failures = count = 0
    width = max(map(len, _core.cells()))
    for name in _core.cells():
        for check in checks_of(name):
            count += 1
            failures += not check.passed
            print(
                f"{name:<{width}} {check.what:<55} {check.error:9.1e} <= {check.bound:.1e}  {check.verdict}",
                flush=True,
            )
    print(f"{count - failures} of {count} checks passed")
    return 1 if failures else 0
