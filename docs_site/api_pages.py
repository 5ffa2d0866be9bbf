"""Pages of the Python API: which names of the package users call or implement."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class ApiPage:
    """A page of the API.

    Attributes:
      name: of its file, without the suffix.
      title: of the page.
      introduction: what the names are for, in Markdown.
      names: dotted, in the order of the page.
    """

    name: str
    title: str
    introduction: str
    names: tuple[str, ...]

    @property
    def text(self) -> str:
        """The page, with an instruction of mkdocstrings for every name."""
        lines = [f"# {self.title}", "", self.introduction, ""]
        for name in self.names:
            lines += [f"::: {name}", ""]
        return "\n".join(lines)


API_PAGES = (
    ApiPage(
        "policy",
        "Policies and images",
        "`from corl_jax import Policy, ImageCodec`: draw, ask and tokenize from Python.",
        (
            "corl_jax.sampling.policy.Policy",
            "corl_jax.sampling.policy.Answer",
            "corl_jax.sampling.planned_drawing",
            "corl_jax.sampling.image_codec.ImageCodec",
        ),
    ),
    ApiPage(
        "rewards",
        "Rewards",
        "What a reward of yours gets and returns ([own reward](../../rewards.md#your-own-rewards)).",
        (
            "corl_jax.rewards.base.RewardFn",
            "corl_jax.rewards.base.RewardContext",
            "corl_jax.rewards.base.compute_rewards",
            "corl_jax.rewards.base.pixels_of",
            "corl_jax.rewards.base.text_of",
            "corl_jax.core.types.Completion",
            "corl_jax.core.types.Record",
            "corl_jax.core.registry.Registry",
        ),
    ),
    ApiPage(
        "data",
        "Data",
        "Records by address, and what a source or a layout of yours implements "
        "([data](../../data.md)).",
        (
            "corl_jax.data.sources.addresses.open_source",
            "corl_jax.data.sources.base.RecordSource",
            "corl_jax.data.sources.base.DescribedSource",
            "corl_jax.data.sources.base.MemorySource",
            "corl_jax.data.sources.table.Table",
            "corl_jax.data.sources.table.Row",
        ),
    ),
    ApiPage(
        "objectives",
        "Objectives",
        "The mathematics as pure functions on arrays ([variants](../../variants.md)).",
        (
            "corl_jax.objectives.sampling_distribution",
            "corl_jax.objectives.normalizations",
            "corl_jax.objectives.advantages",
            "corl_jax.objectives.reward_parts",
            "corl_jax.objectives.policy_gradient",
            "corl_jax.objectives.token_weights",
            "corl_jax.objectives.kl",
            "corl_jax.objectives.image_credit",
            "corl_jax.objectives.entropy_target",
            "corl_jax.objectives.external_samples",
            "corl_jax.objectives.difficulty",
            "corl_jax.objectives.calibration",
            "corl_jax.objectives.weight_merging",
        ),
    ),
    ApiPage(
        "stages",
        "Stages and the training loop",
        "What a kind of training implements, and the loop that runs it.",
        (
            "corl_jax.engine.stage.Stage",
            "corl_jax.engine.state.TrainState",
            "corl_jax.engine.loop.train",
            "corl_jax.core.errors.UserError",
        ),
    ),
    ApiPage(
        "models",
        "Models",
        "What a model family implements to be sampled, trained and measured "
        "([own model](../../own_model.md)).",
        (
            "corl_jax.models.interface",
            "corl_jax.data.prompts.PromptTemplate",
        ),
    ),
)
