# SPDX-License-Identifier: Apache-2.0
"""Options of the command line from the fields of a dataclass, and back."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from pyrnn.examples.config import Options


def add_config(command: argparse.ArgumentParser, config: type[Options]) -> None:
    """An option for every field, None unless given."""
    for field in dataclasses.fields(config):
        command.add_argument(
            f"--{field.name}",
            metavar=field.metadata["metavar"],
            type=type(field.default),
            help=f"{field.metadata['help']}; default: {field.default}",
        )


def given(options: argparse.Namespace, config: type[Options]) -> dict[str, Any]:
    """The fields that were given on the command line."""
    values = {field.name: getattr(options, field.name) for field in dataclasses.fields(config)}
    return {name: value for name, value in values.items() if value is not None}
