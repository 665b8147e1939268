"""The words of reports, pages and docs: one sentence or two each, the same everywhere (docs/glossary.md is held against it)."""

from __future__ import annotations

import re

from markupsafe import Markup, escape

GLOSSARY: dict[str, str] = {
    "question": "A text with choices, or without (an open question), and the right answer.",
    "passage": "A piece of a document, with its title and its source; what the retriever finds and the student reads.",
    "rationale": "An explanation of an answer. The teacher writes those that the student learns from; the student writes "
    "its own.",
    "teacher": "Who explains the right answers of the training questions: a large language model, people, or sentences "
    "of the documents.",
    "student": "The small language model that is trained, and that answers.",
    "retriever": "What finds passages for a text: BM25 (words in common), vectors, or both.",
    "reranker": "A small model that puts the retriever's passages in a better order. It learns from the rationales which "
    "passages matter.",
    "gold passage": "A passage that the data name as the one that supports the answer.",
    "silver passage": "A passage that the retriever finds with the rationale as its query. It takes the place of a gold one.",
    "candidates": "The passages that the reranker puts in order. In training: the first κ1 for the rationale and the first "
    "κ2 for the question (`reranker.rationale_candidates`, `reranker.question_candidates`). When a question "
    "is answered: the first κ* (`retriever.candidates`).",
    "score features": "What is known of a candidate without reading it, added to the reranker's score: the retriever's score, "
    "and whether the title is one of the choices.",
    "second look": "The student reads the first passages that the reranker cannot tell apart, and orders them by how well "
    "each one explains that just this was asked.",
    "method": "A row of the results: how a student is trained, what it reads, and what it writes.",
    "few_shot": "The untrained student, with solved questions in its prompt (few-shot prompt). `few_shot_cot`: it writes "
    "a rationale first (chain of thought). `ka_few_shot`, `ka_few_shot_cot`: it also reads passages (plain "
    "RAG).",
    "finetune": "Trained to write the answer alone. `ka_finetune`: it also reads passages that the retriever finds for "
    "the question. `ka_finetune_reranker`: it learns beside silver passages, and reads what the reranker puts first.",
    "kard_plus": "The same student as `ka_finetune_reranker`. It gives the choice that student and reranker together find the "
    "likeliest.",
    "distill": "Reasoning distillation: trained to write the teacher's rationale and the answer, without passages.",
    "kard_bm25": "KARD: trained to write rationale and answer beside silver passages; it reads what the retriever finds "
    "for the question.",
    "kard_reranker": "The same student, which reads what the reranker puts first. This is the whole method, and what users are "
    "given.",
    "kard_silver": "The same student, which reads the silver passages of the test question. An oracle. `kard_gold`: its gold "
    "passages.",
    "teacher_cot": "The distilled student, with the teacher's rationale for the test question. An oracle.",
    "oracle": "A method that is told at test time what no user could know. It shows what better retrieval could still "
    "gain; it competes with nobody.",
    "accuracy": "The share of the questions that are answered right. An answer that cannot be read off the text "
    "(unparsed) counts as wrong.",
    "95 % interval": "Where the accuracy would be expected with other questions of this kind (Wilson's score interval).",
    "p value": "How often chance alone would make such a difference. Below 0.05 it is called significant, after Holm's "
    "correction for several comparisons; above, the methods are not told apart (a tie).",
    "Hits@k": "The share of the questions for which a gold (or silver) passage is among the first k.",
    "MRR, nDCG@10": "Measures of an order that count a right passage for less the later it stands; 100 % if it is always "
    "first.",
    "confidence": "How sure an answer is. With `evaluation.abstain` it is calibrated on the dev questions: of the answers with "
    "90 % about 90 % are right. Without, it is how sure the student is of its choice, among the choices, or the share of the "
    "samples that came to the answer (`evaluation.samples`), and of the answers with 90 % far more or fewer may be right.",
    "citation": "The number of a passage behind a sentence of an explanation: a sentence of that passage has the same words, "
    "names and numbers. Unsupported: no passage that was read has one. It is word overlap, no understanding.",
    "abstain": "To give no answer because the calibrated confidence is below the threshold that keeps the risk "
    "(`evaluation.abstain`); the passages are shown all the same.",
    "risk, coverage": "The share of wrong answers among those that are given, and the share of the questions that are answered.",
    "cut": "The rationale ended without an answer; `Answer:` was written for the student, and it chose then.",
    "leak": "A test question that shares a run of words with a training question or a passage, so that memory may "
    "answer it.",
    "run": "A folder with all that a recipe produced. Its stages are made once; the same command goes on where it was.",
    "seed": "The number that decides what is drawn by chance: which questions, their order, the first weights. Other "
    "seeds give other numbers.",
    "export": "A folder with all that answers questions, and nothing else; it works anywhere, offline.",
}


def anchor(word: str) -> str:
    """The name of a word's place on a page: ``second look`` is at ``#second-look``."""
    return re.sub(r"[^a-z0-9_]+", "-", word.lower()).strip("-")


def marked(text: str) -> Markup:
    """A text as HTML, with what stands in backticks as code."""
    parts = (
        Markup("<code>{}</code>").format(part) if n % 2 else escape(part) for n, part in enumerate(text.split("`"))
    )
    return Markup("").join(parts)
