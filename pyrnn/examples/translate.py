# SPDX-License-Identifier: Apache-2.0
"""Training of the translation, and its checkpoints."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from pyrnn.examples import archive
from pyrnn.examples.config import TranslateConfig
from pyrnn.examples.dates import Dates
from pyrnn.examples.pairs import Corpus, Pairs, Symbols
from pyrnn.examples.running import INTERRUPTED, Ran, check_folder, descend, run
from pyrnn.examples.translation import TranslationModel
from pyrnn.examples.translator import Quality, Translator, quality
from pyrnn.layout import Array
from pyrnn.optim import Adam

PROGRAM = "translate"
#: Validation examples that are also translated, for the exact match on the way.
TRANSLATED = 500


@dataclasses.dataclass
class Progress:
    """Where a training stands, as plain values."""

    step: int = 0
    best_bits: float | None = None
    best_step: int = 0
    pairs: str | None = None  # path; None is the dates
    fingerprint: str = ""


def read_corpus(pairs: str | None, config: TranslateConfig) -> Corpus:
    """The pairs of a file, or the dates for None."""
    if pairs is None:
        return Dates(config.dates, config.batch, config.seed)
    return Pairs(pairs, config.batch, config.seed)


class Checkpoint:
    """A checkpoint that has been read and checked.

    Parameters
    ----------
    path : path

    Attributes
    ----------
    config, progress, source, target, longest
        As they were saved.

    Raises
    ------
    ValueError
        The file is damaged, or no checkpoint.
    OSError
        It cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = archive.Archive(path, PROGRAM)
        try:
            content = self._file.content
            self.config = TranslateConfig(**content["config"])
            self.progress = Progress(**content["progress"])
            self.source, self.target = Symbols(content["source"]), Symbols(content["target"])
            self.longest = content["longest"]
            if not isinstance(self.longest, int) or not 0 < self.longest < 2**20:
                raise ValueError(f"the longest target has {self.longest!r} characters")
            self._file.check_progress(self.progress)
            H, E = self.config.hidden, self.config.embedding
            self._file.check_size(H * (H // 2 * self.config.layers + E))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._file.refused(error) from None

    def translator(self) -> Translator:
        """With the best model of the training."""
        made = self._untrained()
        self._file.fill(made.model.params)
        return made

    def training(self) -> tuple[Translator, Array, Adam]:
        """Model, best parameters and optimiser, as they were after the last step."""
        made = self._untrained()
        return made, *self._file.resume(made.model.params, self.progress.step)

    def corpus(self, pairs: str | None = None) -> Corpus:
        """What it was trained on; `pairs` is needed only when the file has moved since.

        Raises
        ------
        ValueError, OSError
            It cannot be read, or is another.
        """
        if pairs is not None:
            self.progress.pairs = os.path.abspath(pairs)
        found = read_corpus(self.progress.pairs, self.config)
        if found.fingerprint() != self.progress.fingerprint:
            name = self.progress.pairs or "the dates that babel writes"
            raise ValueError(f"{name}: expected the pairs that the checkpoint was trained on, got others")
        return found

    def _untrained(self) -> Translator:
        model = TranslationModel(len(self.source), len(self.target), self.config)
        return Translator(model, self.source, self.target, self.longest)


class Training:
    """A training that can stop after any step and go on later as if it had not.

    Parameters
    ----------
    config : TranslateConfig
    pairs : str, optional
        Path of a file; dates when None.
    checkpoint : path
        Written at every validation and at the end.

    Attributes
    ----------
    translator : Translator
    corpus : Corpus
    progress : Progress
    unit : str
        What the speed is counted in.

    Raises
    ------
    ValueError, OSError
        The pairs or the checkpoint cannot be used; the message says why.
    """

    unit = "examples"

    def __init__(
        self, config: TranslateConfig, pairs: str | None, checkpoint: str | os.PathLike[str]
    ) -> None:
        check_folder(checkpoint)
        if pairs is not None:
            if config.dates > 1:
                raise ValueError("--dates: expected 1 with --pairs")
            pairs = os.path.abspath(pairs)
        self.config, self.checkpoint = config, checkpoint
        self.corpus = read_corpus(pairs, config)
        self.progress = Progress(pairs=pairs, fingerprint=self.corpus.fingerprint())
        source, target = (Symbols(characters) for characters in self.corpus.characters())
        model = TranslationModel(len(source), len(target), config)
        self.translator = Translator(model, source, target, self.corpus.longest())
        self.best = model.params.flat.copy()
        self.adam = Adam(self.best.size)

    @classmethod
    def resume(cls, checkpoint: str | os.PathLike[str], pairs: str | None = None) -> Training:
        """Go on with a checkpoint; `pairs` is needed only when the file has moved since.

        Raises
        ------
        ValueError, OSError
            The checkpoint cannot be used, or the pairs are not those it was trained on.
        """
        self = cls.__new__(cls)
        loaded = Checkpoint(checkpoint)
        self.config, self.progress, self.checkpoint = loaded.config, loaded.progress, checkpoint
        self.corpus = loaded.corpus(pairs)
        self.translator, self.best, self.adam = loaded.training()
        return self

    @property
    def units(self) -> int:
        """Examples of a step."""
        return self.config.batch

    def advance(self) -> float:
        """One step; returns the loss of its batch in bits per character, before the update."""
        model = self.translator.model
        loss = self.translator.gradients(self.corpus[self.progress.step])
        return descend(self, model.params, model.grads, loss)

    def validation(self) -> tuple[dict[str, float], str]:
        """How good the model is; remembers the parameters when their loss is the lowest so far."""
        bits = self.translator.bits(self.corpus.validation)
        if self.progress.best_bits is None or bits < self.progress.best_bits:
            self.progress.best_bits, self.progress.best_step = bits, self.progress.step
            self.best[...] = self.translator.model.params.flat
        pairs = self.corpus.validation[:TRANSLATED]
        answers = self.translator.translate([pair.source for pair in pairs])
        found = quality([answer.text for answer in answers], pairs)
        values = {"validation": bits, "exact": found.exact}
        if found.bleu is not None:
            values["bleu"] = found.bleu
        return values, f"held out {bits:.4f} bits per character, {found}"

    def save(self) -> None:
        """Write the checkpoint."""
        model = self.translator.model
        if self.progress.best_bits is None:
            self.best[...] = model.params.flat
        content: dict[str, Any] = {
            "config": dataclasses.asdict(self.config),
            "progress": dataclasses.asdict(self.progress),
            "source": self.translator.source.alphabet.characters,
            "target": self.translator.target.alphabet.characters,
            "longest": self.translator.longest,
        }
        archive.save(self.checkpoint, PROGRAM, content, model.params, self.best, self.adam, {})


def train(training: Training, *, log: str | None = None, quiet: bool = False) -> int:
    """Run a training to its end or to Ctrl-C, telling how it goes on standard error.

    Parameters
    ----------
    training : Training
    log : str, optional
        Path of a file to which one line of JSON per step and per validation is appended.
    quiet : bool
        Say nothing but the result.

    Returns
    -------
    int
        0, or 130 after Ctrl-C; the checkpoint has been written either way.
    """
    config = training.config
    parameters = sum(a.size for a in training.translator.model.params.views.values())
    header = (
        f"{training.corpus}; {config.hidden} {config.cell}, attention {config.score}, "
        f"{parameters} parameters, {config.steps} steps"
    )
    ran = run(training, header, log=log, quiet=quiet)
    summary(training, ran)
    return INTERRUPTED if ran.interrupted else 0


def summary(training: Training, ran: Ran) -> None:
    """The last lines; with the best model's translations of the test examples, which it has never met."""
    progress, path = training.progress, os.fspath(training.checkpoint)
    if ran.steps:
        rate = ran.steps / ran.seconds
        print(f"{ran.steps} steps in {ran.seconds:.1f} s, validation included: {rate:.1f} per s")
    if ran.interrupted:
        print(f"interrupted after step {progress.step} of {training.config.steps}; {path} is written")
        print(f"resume with: pyrnn translate --resume --checkpoint {path}")
        return
    pairs = training.corpus.test
    found = examine(Checkpoint(path).translator(), training.corpus)[1]
    print(f"best: {progress.best_bits:.4f} bits per held-out character, after step {progress.best_step}")
    print(f"test: {found} of {len(pairs)} examples")
    print(f"{path} is written; translate with: pyrnn translate apply --checkpoint {path} TEXT")


def examine(
    translator: Translator, corpus: Corpus, beam: int = 1, length_penalty: float = 0.0
) -> tuple[list[str], Quality]:
    """What a model makes of the test examples, and how good that is."""
    answers = translator.translate([pair.source for pair in corpus.test], beam, length_penalty)
    texts = [answer.text for answer in answers]
    return texts, quality(texts, corpus.test)
