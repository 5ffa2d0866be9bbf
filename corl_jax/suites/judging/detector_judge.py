"""The alternative judge of GenEval: a detector that runs where this package runs, GenEval's rules.

It is not the official judge. That one has Mask2Former, trained on the 80 classes of the prompts, and
the masks of its objects; this one asks an open-vocabulary detector by name and has boxes alone. Its
figures compare policies with each other; they are not those of papers (docs/suites_generation.md).
"""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from corl_jax.core.errors import UserError
from corl_jax.evals.statistics import Estimates
from corl_jax.suites.generation.drawing import picture_records
from corl_jax.suites.generation.picture_files import read_pictures
from corl_jax.suites.generation.prompts import GenerationPrompt
from corl_jax.suites.generation.suite import generation_suites
from corl_jax.suites.judging.detectors import ColourReader, Detector
from corl_jax.suites.judging.geneval_detections import Detection, Thresholds, counted
from corl_jax.suites.judging.geneval_figures import summarize
from corl_jax.suites.judging.geneval_rules import Verdict, judge, needing_colours
from corl_jax.suites.judging.verdict_file import append_lines, read_verdicts, verdict_line
from corl_jax.suites.results import PICTURES, SuiteRecord
from corl_jax.suites.settings import keep_settings

VERDICTS, JUDGE = "detector_verdicts.jsonl", "detector_judge.json"
"""Files of a folder of results: a line per picture, and what judged."""
SCORE = "geneval_by_detector"
"""Name of the score; another one than the official figure's, so that nobody takes it for that."""
OWLV2_THRESHOLDS = Thresholds(score=0.3, counting=0.3, overlap=0.5)
"""For OWLv2, whose scores are lower than Mask2Former's and which finds an object several times.
Chosen and not fitted: nobody has held them against the official judge here."""


@dataclasses.dataclass(frozen=True)
class DetectorJudge:
    """Judges pictures with GenEval's rules.

    Attributes:
      detector: finds the objects.
      colour_reader: names their colours.
      thresholds: of the rules.
      other_classes: classes that the detector is asked for besides those of the prompt, so that it
        may call a thing something else.
    """

    detector: Detector
    colour_reader: ColourReader
    thresholds: Thresholds
    other_classes: tuple[str, ...] = ()

    def __call__(
        self, picture: UInt8[np.ndarray, "H W 3"], specification: Mapping[str, Any]
    ) -> tuple[Verdict, dict[str, tuple[Detection, ...]]]:
        """The verdict about a picture, and the objects that counted.

        Args:
          picture: any size.
          specification: a line of ``evaluation_metadata.jsonl``.
        """
        clauses = [*specification["include"], *specification.get("exclude", ())]
        named = (clause["class"] for clause in clauses)
        classes = tuple(dict.fromkeys((*named, *self.other_classes)))
        found = self.detector.detect(picture, classes)
        objects = counted(found, specification["tag"], self.thresholds)

        # Only the objects that the rules look at are worth a crop.
        wanted = needing_colours(objects, specification)
        colours = self.colour_reader.colours(picture, wanted)
        named_colours = dict(zip(wanted, colours, strict=True))
        objects = {
            name: tuple(
                dataclasses.replace(one, colour=named_colours.get(one, "")) for one in group
            )
            for name, group in objects.items()
        }
        return judge(objects, specification), objects


def judge_folder(
    judge_picture: DetectorJudge,
    prompts: Sequence[GenerationPrompt],
    folder: pathlib.Path,
    samples: int,
    about_judge: Mapping[str, Any],
    quiet: bool = False,
) -> tuple[SuiteRecord, ...]:
    """Judges all pictures in ``folder/pictures``; what was judged already is not judged again.

    ``detector_verdicts.jsonl`` has the columns of the official judge's results, which
    ``summary_scores.py`` of geneval reads.

    Args:
      judge_picture: gives the verdicts.
      prompts: of GenEval, all complete.
      folder: of the results.
      samples: pictures per prompt.
      about_judge: JSON values that tell judges apart; a folder has the verdicts of one.
      quiet: shows no progress bar.

    Returns:
      the records of ``picture_records`` with the score ``geneval_by_detector``, 0 or 1.

    Raises:
      UserError: several processes, a picture that cannot be read, or verdicts of another judge.
    """
    if jax.process_count() > 1:
        raise UserError(
            "the judge by detector must run as one process; got several. Judge the folder "
            "afterwards, on one host"
        )
    suite = generation_suites["geneval"]
    thresholds = dataclasses.asdict(judge_picture.thresholds)
    about = dict(about_judge) | thresholds | {"other_classes": list(judge_picture.other_classes)}
    path = folder / VERDICTS
    about_file = about | {"is_official": False}
    keep_settings(folder / JUDGE, about_file, "verdicts", has_output=path.exists())
    correct = read_verdicts(path)

    records = picture_records(suite, prompts, samples)
    by_prompt = [records[i : i + samples] for i in range(0, len(records), samples)]
    missing = [
        place
        for place, group in enumerate(by_prompt)
        if any(record.picture not in correct for record in group)
    ]
    progress = tqdm(
        missing, desc="judge", file=sys.stderr, ascii=True, unit="prompt", disable=quiet
    )
    for place in progress:
        prompt = prompts[place]
        pictures = read_pictures(folder / PICTURES, suite.layout, prompt, samples)
        lines = []
        for record, picture in zip(by_prompt[place], pictures, strict=True):
            verdict, objects = judge_picture(picture, prompt.metadata)
            correct[record.picture] = verdict.is_correct
            lines.append(verdict_line(record, prompt, verdict, objects))
        append_lines(path, lines)

    return tuple(
        dataclasses.replace(record, scores={SCORE: float(correct[record.picture])})
        for record in records
    )


def detector_figures(records: Sequence[SuiteRecord]) -> Estimates:
    """``geneval_by_detector``, the mean of its tags, and ``geneval_by_detector/TAG``.

    Args:
      records: from ``judge_folder``.
    """
    verdicts = [(record.category, record.cluster, record.scores[SCORE] == 1) for record in records]
    return summarize(verdicts, SCORE)
