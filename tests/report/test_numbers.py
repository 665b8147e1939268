"""Numbers in words: rounding, signs, and the sentence that sums up a run."""

import pytest

from kard.report.numbers import (
    best_method,
    headline,
    label,
    operations,
    p_value,
    percent,
    percent_interval,
    points,
    points_interval,
    reranking,
    setting,
)


def spaced(text):
    return text.replace("\u00a0", " ")


def without(results, *names):
    methods = [method for method in results["methods"] if method["name"] not in names]
    return results | {"methods": methods}


def test_percent_and_interval():
    assert spaced(percent(0.7433)) == "74.3 %"
    assert spaced(percent_interval([0.6912, 1.0])) == "69.1–100.0 %"


@pytest.mark.parametrize(("difference", "shown"), [(0.187, "+18.7"), (-0.0212, "−2.1"), (0.0, "0.0"), (-0.0001, "0.0")])
def test_points_carry_their_sign(difference, shown):
    assert points(difference) == shown


def test_large_counts_have_a_letter():
    assert [spaced(operations(count)) for count in (0, 999, 65_432, 1.9e10, 2.5e13, 3.14e18)] == [
        "0", "999", "65.4 k", "19 G", "25 T", "3.14 E",
    ]  # fmt: skip
    assert operations(None) == "–"


def test_points_interval_spans_zero():
    assert points_interval([-0.01, 0.05]) == "−1.0 to +5.0"


@pytest.mark.parametrize(("p", "shown"), [(0.00001, "p < 0.001"), (0.0123, "p = 0.012"), (1.0, "p = 1.000")])
def test_p_value(p, shown):
    assert p_value(p) == shown


def test_p_value_is_not_rounded_across_the_line():
    assert p_value(0.04996) == "p = 0.049960"
    assert p_value(0.05) == "p = 0.050"


def test_best_method_is_no_oracle_where_there_is_another(results):
    assert best_method(results["methods"])["name"] == "kard_reranker"
    assert best_method(results["methods"][-1:])["name"] == "kard_silver"


def test_headline_of_a_significant_gain(results):
    title, detail = headline(results)
    assert spaced(title) == "74.3 % of 300 test questions right with KARD, passages by reranker."
    assert spaced(detail) == (
        "The 95 % interval is 69.1–78.9 %. That is 19.3 points more than reasoning distillation "
        "(95 % interval +13.0 to +25.7), which is significant (p < 0.001 after Holm’s correction)."
    )


def test_headline_within_noise_says_so(results):
    _, detail = headline(without(results, "kard_reranker"))
    assert "6.3 points more than reasoning distillation" in detail
    assert "within noise (p = 0.062" in detail
    assert "significant" not in detail


def test_headline_turns_a_comparison_round_where_distillation_is_best(results):
    _, detail = headline(without(results, "kard_reranker", "kard_bm25"))
    assert "3.7 points more than fine-tuning on answers" in detail
    assert "−2.7 to +10.0" in detail


def test_headline_without_distillation_takes_the_next_best(results):
    _, detail = headline(without(results, "distill"))
    assert "13.0 points more than KARD, passages by BM25" in detail


def test_headline_never_compares_with_an_oracle(results):
    silver = [{"a": "kard_silver", "b": "kard_reranker", "difference": 0.234, "ci95": [0.18, 0.29], "p_value": 1e-9}]
    assert "It was compared with no other method." in headline(results | {"comparisons": silver})[1]


def test_headline_of_oracles_alone_names_the_oracle(results):
    title, _ = headline(results | {"methods": results["methods"][-1:], "comparisons": []})
    assert title.endswith("with KARD, silver passages (oracle).")


def test_labels_come_from_the_table_of_methods():
    assert label("distill") == "reasoning distillation"
    with pytest.raises(KeyError):
        label("unheard_of")


def ranked(bm25, trained, recall, p_value=0.001):
    """Rows of a BM25 and a trained reranker with these Hits@1."""
    gains = [{"over": "bm25", "difference": trained - bm25, "ci95": [0, 0], "p_value": p_value}]
    return [
        {"name": "bm25", "hits": {"1": bm25}, "recall": recall, "gains": []},
        {"name": "reranker", "hits": {"1": trained}, "recall": recall, "gains": gains},
    ]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (ranked(0.4, 0.6, 0.95), ["Reranking helps: +20.0 points", "12.5", "does not tell them apart"]),
        (ranked(0.4, 0.42, 0.45, 0.3), ["does not help here beyond chance", "94.8", "retriever.candidates"]),
        (ranked(0.4, 0.3, 0.9, 0.0001), ["Reranking harms here: −10.0 points"]),
        (ranked(0.92, 0.9, 0.96, 0.5), ["BM25 puts nearly all of the others first already"]),
        (ranked(0.5, 1.0, 1.0), ["always put first"]),
    ],
)
def test_it_says_when_reranking_does_not_help_and_why(rows, words):
    text = spaced(reranking(rows))
    assert [word for word in words if word not in text] == []


def test_training_that_adds_nothing_is_said():
    rows = ranked(0.4, 0.6, 0.95)
    rows[1]["gains"].append({"over": "reranker_untrained", "difference": 0.01, "ci95": [0, 0], "p_value": 0.8})
    assert "Training adds nothing certain" in reranking(rows)
    assert reranking([]) == ""


def test_settings_are_told_in_words():
    assert setting({}) == "as the recipe says"
    told = setting({"student.rationales": None, "student.passages,evaluation.passages": 2})
    assert told == "student.rationales = all, student.passages = evaluation.passages = 2"
