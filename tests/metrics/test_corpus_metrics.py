"""Metrics of all answers together: their counts add up, and give what the libraries give."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, f1_score

from tunerun.metrics import Metric, Unit, names, resolve
from tunerun.metrics.confusion import Confusion
from tunerun.testing.metric_contract import check_metric

WORDS = st.lists(st.sampled_from(["the", "cat", "sat", "on", "a", "mat", "."]), max_size=9).map(" ".join)
LABELS = st.sampled_from(["red", "green", "blue"])
ANSWERS = st.sampled_from(["red", "green", "blue", "mauve", ""])
TEXT_PAIRS = st.lists(st.tuples(WORDS.filter(bool), WORDS), min_size=1, max_size=8)
LABEL_PAIRS = st.lists(st.tuples(LABELS, ANSWERS), min_size=1, max_size=30)
CORPUS = ["macro_f1", "balanced_accuracy", "chrf", "bleu"]


def metric(name: str, **options: Any) -> Metric:
    return resolve({"metrics": [{"name": name, **options}]})[0]


def value(metric: Metric, pairs: list[tuple[str, str]]) -> float:
    expected, answers = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    return float(metric.value(metric.rows(expected, answers).mean(axis=0)))


def library(name: str, pairs: list[tuple[str, str]]) -> float:
    expected, answers = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    if name == "chrf":
        return float(CHRF().corpus_score(answers, [expected]).score)
    if name == "bleu":
        return float(BLEU(force=True).corpus_score(answers, [expected]).score)
    if name == "rouge_l":
        from rouge_score.rouge_scorer import RougeScorer  # imports nltk: a second

        scorer = RougeScorer(["rougeL"])
        return float(np.mean([scorer.score(*pair)["rougeL"].fmeasure for pair in pairs]))
    labels = sorted(set(expected))
    if name == "macro_f1":
        return float(f1_score(expected, answers, labels=labels, average="macro", zero_division=0))
    if name == "accuracy":
        return float(accuracy_score(expected, answers))
    with warnings.catch_warnings():  # answers that are no class: scikit-learn leaves them out as we do
        warnings.simplefilter("ignore")
        return float(balanced_accuracy_score(expected, answers))


@pytest.mark.parametrize("name", ["macro_f1", "balanced_accuracy", "accuracy"])
@given(pairs=LABEL_PAIRS)
def test_counts_of_labels_give_what_scikit_learn_gives(name: str, pairs: list[tuple[str, str]]) -> None:
    """The value from the mean of the rows is the library's own."""
    assert value(metric(name), pairs) == pytest.approx(library(name, pairs), abs=1e-12)


@pytest.mark.parametrize("name", ["chrf", "bleu", "rouge_l"])
@given(pairs=TEXT_PAIRS)
def test_counts_of_texts_give_what_the_libraries_give(name: str, pairs: list[tuple[str, str]]) -> None:
    """The value from the mean of the rows is the corpus score of sacrebleu, and the mean of rouge-score."""
    assert value(metric(name), pairs) == pytest.approx(library(name, pairs), abs=1e-9)


@pytest.mark.parametrize(
    ("name", "options", "scorer"),
    [
        ("chrf", {"word_order": 2}, CHRF(word_order=2)),
        ("bleu", {"tokenize": "char"}, BLEU(tokenize="char", force=True)),
    ],
)
@given(pairs=TEXT_PAIRS)
def test_options_are_those_of_sacrebleu(
    name: str, options: dict[str, Any], scorer: Any, pairs: list[tuple[str, str]]
) -> None:
    """An option changes the score as it changes the library's."""
    theirs = scorer.corpus_score([pair[1] for pair in pairs], [[pair[0] for pair in pairs]]).score
    assert value(metric(name, **options), pairs) == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize("name", CORPUS)
@given(data=st.data())
def test_rows_can_be_resampled_without_their_texts(name: str, data: st.DataObject) -> None:
    """For any resample of as many rows, the mean of the drawn rows gives the library's value for the drawn pairs."""
    pairs = data.draw(LABEL_PAIRS if name in ("macro_f1", "balanced_accuracy") else TEXT_PAIRS)
    drawn = data.draw(st.lists(st.integers(0, len(pairs) - 1), min_size=len(pairs), max_size=len(pairs)))
    measure = metric(name)
    rows = measure.rows([pair[0] for pair in pairs], [pair[1] for pair in pairs])
    resampled = float(measure.value(rows[drawn].mean(axis=0)))
    assert resampled == pytest.approx(library(name, [pairs[row] for row in drawn]), abs=1e-9)


@pytest.mark.parametrize("name", [*CORPUS, "accuracy", "exact_match", "rouge_l"])
@given(data=st.data())
def test_the_order_of_rows_does_not_matter(name: str, data: st.DataObject) -> None:
    """A permutation of the rows has the same value."""
    pairs = data.draw(LABEL_PAIRS)
    assume(all(answer for _, answer in pairs))
    shuffled = data.draw(st.permutations(pairs))
    assert value(metric(name), shuffled) == pytest.approx(value(metric(name), pairs), abs=1e-9)


NOT_OF_TEXTS = ("answer_loss", "judge", "judge_preference")
"""Metrics whose rows a model gives."""


@pytest.mark.parametrize("name", [n for n in names() if n not in NOT_OF_TEXTS])
def test_every_metric_keeps_the_contract(name: str) -> None:
    """Rows, values and resamples of each metric of this package are as the Protocol says."""
    options = {"pattern": "(a|red)"} if name == "regex" else {}
    check_metric(metric(name, **options), ["the cat sat", "red", "a mat", "1"], ["the cat", "red", "on a mat", ""])


@pytest.mark.parametrize("name", [n for n in names() if n not in (*NOT_OF_TEXTS, "regex", "mine")])
def test_right_answers_have_the_best_value(name: str) -> None:
    """Answers that equal the expected ones have the largest value of the metric's unit."""
    right = ['{"number": 1, "text": "the cat sat on the mat"}'] * 3
    best = {Unit.SHARE: 1.0, Unit.HUNDRED: 100.0}
    measure = metric(name)
    assert value(measure, [(text, text) for text in right]) == pytest.approx(best[measure.unit])
    assert measure.is_corpus == (name in CORPUS)
    assert measure.higher_is_better


def test_three_label_case_of_the_majority_answer() -> None:
    """Always giving the most frequent of three labels has 1/3 of balanced accuracy, and a sixth of macro F1."""
    expected = ["a"] * 4 + ["b"] * 2 + ["c"] * 2
    pairs = [(label, "a") for label in expected]
    assert value(metric("accuracy"), pairs) == 0.5
    assert value(metric("balanced_accuracy"), pairs) == pytest.approx(1 / 3)
    assert value(metric("macro_f1"), pairs) == pytest.approx(2 / 9)


@given(pairs=LABEL_PAIRS)
def test_the_confusion_matrix_is_that_of_scikit_learn(pairs: list[tuple[str, str]]) -> None:
    """Rows are expected labels, columns answers, the last one all answers that are not a label."""
    expected, answers = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    confusion = Confusion.of(expected, answers)
    labels = sorted(set(expected))
    read = [answer if answer in labels else "~" for answer in answers]
    theirs = confusion_matrix(expected, read, labels=[*labels, "~"])
    assert confusion.labels == tuple(labels)
    assert [list(row) for row in confusion.counts] == theirs[:-1].tolist()
