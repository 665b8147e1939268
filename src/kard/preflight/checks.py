"""What a recipe asks of its models, looked at before hours of other work."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Any

from kard.data.question import Question
from kard.errors import UserError
from kard.models.weights import check_model, model_location, most_tokens
from kard.preflight.room import check_room
from kard.recipe import Recipe, StudentSection, TeacherSection


def check_before(recipe: Recipe, folder: Path, to_do: set[str]) -> None:
    """Look whether disk, memory, teacher and models are what the stages that are to be done need.

    Raises:
        UserError: Names the key of the first that is not, and what to do.
    """
    check_room(recipe, folder, to_do)
    # Where replies are there, the stages before are done: what is still to be asked is found out at once.
    if recipe.teacher.kind == "openai" and "rationales" in to_do and not (folder / "teacher.sqlite").exists():
        from kard.teacher.listing import check_endpoint

        check_endpoint(recipe.teacher)
    check_models(recipe, to_do)


def check_models(recipe: Recipe, to_do: set[str]) -> None:
    """Look whether the models of the stages that are to be done are there, and can do what the recipe asks of them.

    Raises:
        UserError: Names the key of the first that is not there, or cannot.
    """
    if recipe.teacher.verifier is not None and "rationales" in to_do:
        _check_verifier(_check_writer(recipe.teacher.verifier, "teacher.verifier"), recipe.teacher)
    if recipe.teacher.kind == "transformers" and recipe.teacher.model is not None and "rationales" in to_do:
        _check_writer(recipe.teacher.model, "teacher.model")
    if recipe.retriever.kind in ("dense", "hybrid") and "index" in to_do:
        check_model(recipe.retriever.encoder, "retriever.encoder")
    if "reranker" in to_do:
        check_model(recipe.reranker.model, "reranker.model")
    if to_do & {"students", "predictions"}:
        config = _check_writer(recipe.student.model, "student.model")
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


def _check_verifier(config: Any, section: TeacherSection) -> None:
    from kard.teacher.limits import CHARACTERS_PER_TOKEN
    from kard.teacher.verifier import example_prompt

    reads = most_tokens(config) if config is not None else None
    prompt = example_prompt(Question("", "", ("", "")), section)
    needed = len(prompt) // CHARACTERS_PER_TOKEN + section.max_tokens
    if reads is not None and needed > reads:
        raise UserError(
            f"teacher.verifier: '{section.verifier}' reads {reads:,} tokens; its worked examples and a rationale take about "
            f"{needed:,}, the question not counted. Choose one that reads more, or set it to null."
        )


def _check_writer(name: str, key: str) -> Any:
    """As `check_model`, of a model that writes: its tokenizer must know an end, and it must go on from what it has read."""
    config = check_model(name, key)
    if config is None:
        return None
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    from kard.student.loading import base_tokenizer

    base_tokenizer(model_location(name, key), key)
    if not config.is_encoder_decoder:
        known = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
        takes = signature(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].forward).parameters if known else {}
        if missing := sorted({"attention_mask", "cache", "logits_to_keep"} - set(takes)):
            raise UserError(
                f"{key}: '{name}' is a model of type '{config.model_type}', which "
                f"{'takes no ' + ' and no '.join(missing) if known else 'writes no text'}. Choose another model."
            )
    return config


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
