# SPDX-License-Identifier: Apache-2.0
"""`pyrnn convert`: layers between the files of this library, PyTorch, Keras and ONNX."""

from __future__ import annotations

import argparse
from typing import Any

EPILOG = """formats, by suffix:
  .safetensors  what a layer's save wrote; also read: a state_dict
  .pt, .pth     a state_dict of PyTorch, read without running code of the file
  .keras        a model of Keras 3
  .onnx         a model with LSTM, GRU or RNN operators

example: pyrnn convert model.pt layer.onnx --cell lstm --layer encoder.rnn
"""


def add_convert(commands: Any) -> None:
    """The command and its options."""
    convert = commands.add_parser(
        "convert",
        help="turn a layer's file into one of PyTorch, Keras or ONNX, or back",
        description="Read a recurrent layer from one file and write it to another.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    convert.set_defaults(run=run_convert, prog=convert.prog)
    convert.add_argument("source", metavar="IN", help="file to read")
    convert.add_argument("target", metavar="OUT", help="file to write; replaced if it exists")
    convert.add_argument("--cell", metavar="NAME", help="cell of a state_dict, which names none: lstm, gru …")
    convert.add_argument(
        "--layer", metavar="NAME", help="one of several: a module's path, a Keras layer or an ONNX node"
    )
    convert.add_argument(
        "--batch-first",
        action=argparse.BooleanOptionalAction,
        help="whether sequences are (B, T, I); default: as IN has it",
    )
    convert.add_argument("--lengths", action="store_true", help="give an ONNX model an input of lengths")
    convert.add_argument("--state", action="store_true", help="give an ONNX model inputs of initial states")


def run_convert(options: argparse.Namespace) -> int:
    """Read, write, and say what the layer is."""
    from pyrnn.io.converting import read_layer, suffix_of, write_layer
    from pyrnn.recurrent import Recurrent

    suffix_of(options.target)  # before a large file is read
    try:
        layer = read_layer(options.source, options.cell, options.layer)
        if not isinstance(layer, Recurrent):
            raise ValueError(f"{options.source}: expected a recurrent layer, got {type(layer).__name__}")
        if options.batch_first is not None:
            layer.batch_first = options.batch_first
        write_layer(layer, options.target, lengths=options.lengths, state=options.state)
    except ModuleNotFoundError as error:
        raise ValueError(f"this format needs the package {error.name}, which is not installed") from None
    except TypeError as error:  # a file with numbers of a kind that layers have not
        raise ValueError(str(error)) from None
    print(f"{options.target}: {layer!r}")
    return 0
