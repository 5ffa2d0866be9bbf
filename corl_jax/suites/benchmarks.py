"""The benchmarks of questions: how each is read, asked and scored."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence

from corl_jax.core.errors import UserError
from corl_jax.core.registry import Registry
from corl_jax.suites import prompts
from corl_jax.suites.prompts import SuitePrompt
from corl_jax.suites.questions import owners, table_facts
from corl_jax.suites.questions.fields import Cells
from corl_jax.suites.questions.question import Question
from corl_jax.suites.questions.rows import KEY, read_rows
from corl_jax.suites.questions.tables import COLUMNS, read_table
from corl_jax.suites.scoring import rules
from corl_jax.suites.scoring.aggregates import (
    PERCEPTION,
    REASONING,
    Aggregate,
    mme_score,
    pope_counts,
    share_of_clusters,
    wemath_score,
)


@dataclasses.dataclass(frozen=True)
class Layout:
    """A form in which a benchmark is published.

    Attributes:
      columns: which its rows have.
      read: the cells of a row to a question; None for tables of VLMEvalKit.
    """

    columns: tuple[str, ...]
    read: Callable[[Cells], Question] | None = None


TABLE = Layout(COLUMNS)
"""VLMEvalKit's table."""


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A benchmark of questions about pictures.

    Attributes:
      layouts: how its owner, and VLMEvalKit, publish it; the first whose columns are there counts.
      prompt: how a question is put.
      from_table: a question of VLMEvalKit's table with what that has under other names.
      scores: of an answer, by name; nothing where only a judge can say.
      aggregates: figures beside the means of scores.
      judge: what scores it officially beside the rules here; "" where these are the official ones.
      answer_tokens: longest answer.
    """

    layouts: tuple[Layout, ...]
    prompt: Callable[[Question], SuitePrompt]
    scores: Callable[[Question, str], Mapping[str, float]]
    from_table: Callable[[Question], Question] = table_facts.unchanged
    aggregates: Mapping[str, Aggregate] = dataclasses.field(default_factory=dict)
    judge: str = ""
    answer_tokens: int = 64


benchmarks: Registry[Benchmark] = Registry("suite")

MATCHING_JUDGE = (
    "VLMEvalKit asks a language model about answers that its rules cannot read; here they are wrong"
)
EXTRACTING_JUDGE = (
    "VLMEvalKit lets a language model extract the answer first; here the answer must stand alone, so "
    "this is a lower bound"
)


benchmarks.register("pope")(
    Benchmark(
        layouts=(Layout(("question_id", "image", "text", "label"), owners.read_pope), TABLE),
        prompt=prompts.yes_no,
        scores=rules.pope_scores,
        aggregates={
            "precision": lambda records: pope_counts(records).precision,
            "recall": lambda records: pope_counts(records).recall,
            "f1": lambda records: pope_counts(records).f1,
        },
    )
)
benchmarks.register("mme")(
    Benchmark(
        layouts=(
            Layout(("index", "question", "answer", "category", "image_path"), owners.read_mme),
            Layout(("question_id", "question", "answer", "category", "image"), owners.read_mme),
            TABLE,
        ),
        prompt=prompts.mme,
        scores=rules.yes_no_scores,
        aggregates={
            "acc_plus": share_of_clusters,
            "perception": lambda records: mme_score(records, PERCEPTION),
            "reasoning": lambda records: mme_score(records, REASONING),
        },
    )
)
benchmarks.register("mmmu")(
    Benchmark(
        layouts=(Layout(("id", "question", "options", "answer"), owners.read_mmmu), TABLE),
        prompt=prompts.multiple_choice,
        scores=rules.mmmu_scores,
        judge=MATCHING_JUDGE,
    )
)
benchmarks.register("mmmu_pro")(
    Benchmark(
        layouts=(Layout(("id", "question", "options", "answer"), owners.read_mmmu), TABLE),
        prompt=prompts.mmmu_pro,
        scores=rules.choice_scores,
        judge=MATCHING_JUDGE,
    )
)
benchmarks.register("mmmu_pro_vision")(
    Benchmark(
        layouts=(
            Layout(("id", "image", "options", "answer"), owners.read_mmmu_pro_vision),
            Layout(("index", "image", "answer", "A", "B")),
        ),
        prompt=prompts.mmmu_pro_vision,
        scores=rules.choice_scores,
        judge=MATCHING_JUDGE,
    )
)
benchmarks.register("mmstar")(
    Benchmark(
        layouts=(
            Layout((*COLUMNS, "A", "B")),
            Layout(("index", "question", "image", "answer", "category"), owners.read_mmstar),
        ),
        prompt=prompts.multiple_choice,
        scores=rules.choice_scores,
        judge=MATCHING_JUDGE,
    )
)
benchmarks.register("mmbench")(
    Benchmark(
        layouts=(TABLE,),
        prompt=prompts.multiple_choice,
        scores=rules.choice_scores,
        from_table=table_facts.with_circular_cluster,
        aggregates={"circular": share_of_clusters},
        judge=MATCHING_JUDGE,
    )
)
benchmarks.register("mathvista")(
    Benchmark(
        layouts=(
            Layout(("question", "question_type", "answer_type", "metadata"), owners.read_mathvista),
            TABLE,
        ),
        prompt=prompts.as_published,
        scores=rules.mathvista_scores,
        from_table=table_facts.with_task,
        judge=EXTRACTING_JUDGE,
        answer_tokens=512,
    )
)
benchmarks.register("mathverse")(
    Benchmark(
        layouts=(
            Layout(("sample_index", "problem_version", "query_wo"), owners.read_mathverse),
            TABLE,
        ),
        prompt=prompts.as_published,
        scores=rules.mathverse_scores,
        from_table=table_facts.with_problem_version,
        judge=EXTRACTING_JUDGE,
        answer_tokens=512,
    )
)
benchmarks.register("mathvision")(
    Benchmark(
        layouts=(Layout(("id", "question", "options", "subject"), owners.read_mathvision), TABLE),
        prompt=prompts.as_published,
        scores=rules.mathvision_scores,
        from_table=table_facts.with_listed_choices,
        judge=EXTRACTING_JUDGE,
        answer_tokens=512,
    )
)
benchmarks.register("logicvista")(
    Benchmark(
        layouts=(
            Layout((KEY, "imagename", "question", "answer", "skill"), owners.read_logicvista),
            TABLE,
        ),
        prompt=prompts.as_published,
        scores=rules.logicvista_scores,
        from_table=table_facts.with_skill,
        judge=EXTRACTING_JUDGE,
        answer_tokens=512,
    )
)
benchmarks.register("wemath")(
    Benchmark(
        layouts=(Layout(("ID", "key", "option", "image_path"), owners.read_wemath), TABLE),
        prompt=prompts.multiple_choice,
        scores=rules.choice_scores,
        from_table=table_facts.with_steps,
        aggregates={
            "strict": lambda records: wemath_score(records, strict=True),
            "loose": lambda records: wemath_score(records, strict=False),
        },
        judge=MATCHING_JUDGE,
    )
)
benchmarks.register("mmvet")(
    Benchmark(
        layouts=(
            Layout((KEY, "imagename", "question", "answer", "capability"), owners.read_mmvet),
            TABLE,
        ),
        prompt=prompts.mmvet,
        scores=rules.no_scores,
        judge="GPT-4 grades every answer; the dumps are what its evaluators read",
        answer_tokens=512,
    )
)
benchmarks.register("table")(
    Benchmark(layouts=(TABLE,), prompt=prompts.multiple_choice, scores=rules.table_scores)
)


def read_questions(name: str, path: pathlib.Path) -> list[Question]:
    """The questions of benchmark ``name`` in a file or folder.

    Raises:
      UserError: an unknown benchmark, a file of another one, or a row that cannot be read.
    """
    benchmark = benchmarks[name]
    rows = read_rows(path)
    folder = path if path.is_dir() else path.parent
    columns = dict.fromkeys(column for row in rows for column in row.values)
    for layout in benchmark.layouts:
        if all(column in columns for column in layout.columns):
            break
    else:
        needed = "; or ".join(", ".join(layout.columns) for layout in benchmark.layouts)
        raise UserError(
            f"--data of {name} must have the columns {needed}; {str(path)!r} has "
            f"{', '.join(list(columns)[:20])}. Name the benchmark's own file, or another --suite"
        )

    read = layout.read
    if read is None:
        questions = [benchmark.from_table(question) for question in read_table(rows, folder)]
    else:
        questions = [read(Cells(row, folder)) for row in rows]
    _check(questions, is_text_needed=benchmark.prompt is not prompts.mmmu_pro_vision)
    return questions


def _check(questions: Sequence[Question], *, is_text_needed: bool) -> None:
    """Refuses ids that are not unique, and questions without a text where one is asked."""
    locations: dict[str, str] = {}
    for question in questions:
        if is_text_needed and not question.text:
            raise UserError(
                f"{question.location}: question must be a text; got nothing. Get the file again"
            )
        if question.id in locations:
            raise UserError(
                f"{question.location} has the id {question.id!r} of {locations[question.id]}; ids "
                "must be unique. Get the file again"
            )
        locations[question.id] = question.location
