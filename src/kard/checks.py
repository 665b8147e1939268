"""What a recipe asks of its models, looked at before hours of other work."""

from __future__ import annotations

from typing import Any

from kard.errors import UserError
from kard.recipe import Recipe, StudentSection
from kard.weights import check_model, most_tokens


def check_models(recipe: Recipe, to_do: set[str]) -> None:
    """Look whether the models of the stages that are to be done are there, and can do what the recipe asks of them.

    Raises:
        UserError: Names the key of the first that is not there, or cannot.
    """
    if recipe.teacher.verifier is not None and "rationales" in to_do:
        check_model(recipe.teacher.verifier, "teacher.verifier")
    if "reranker" in to_do:
        check_model(recipe.reranker.model, "reranker.model")
    if to_do & {"students", "predictions"}:
        config = check_model(recipe.student.model, "student.model")
        if config is not None:
            _check_positions(config, recipe.student)
            if config.is_encoder_decoder and recipe.reranker.second_look:
                raise UserError(
                    f"reranker.likelihood_weight: '{recipe.student.model}' is an encoder-decoder, and only decoders learn how "
                    "likely a question is. Set it to null, or choose another student.model."
                )
        if recipe.evaluation.engine == "vllm" and "predictions" in to_do:
            from kard.student.vllm import check_vllm

            check_vllm(config)


def _check_positions(config: Any, section: StudentSection) -> None:
    reads = most_tokens(config)
    # A decoder's positions hold what it reads and what it writes, an encoder-decoder has as many for each.
    both = (section.max_input_tokens, section.max_output_tokens)
    needed = max(both) if config.is_encoder_decoder else sum(both)
    if reads is not None and needed > reads:
        raise UserError(
            f"student.max_input_tokens and max_output_tokens: {needed:,} tokens asked for, '{section.model}' has positions for "
            f"{reads:,}. Lower one of them."
        )
