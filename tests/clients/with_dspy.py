"""DSPy's BootstrapFinetune; its OpenAI provider reads the address from the environment alone."""

import os

from checks import ALIAS, ANSWER, BASE, BASE_URL, KEY, QUESTION, TUNED, TWO_TURNS, check, expect, version

os.environ["OPENAI_BASE_URL"], os.environ["OPENAI_API_KEY"] = BASE_URL, KEY

import dspy  # noqa: E402
from dspy.utils import DummyLM  # noqa: E402

version("dspy")
there = {"api_base": BASE_URL, "api_key": KEY, "cache": False, "max_tokens": 8}

with check("tune"):
    dspy.settings.experimental = True
    student = dspy.Predict("number -> next")
    student.set_lm(dspy.LM(f"openai/{ALIAS}", train_kwargs={"n_epochs": 1}, **there))
    teacher = dspy.Predict("number -> next")
    teacher.set_lm(DummyLM([{"next": str(n + 1)} for n in range(12)]))
    rows = [dspy.Example(number=str(n), next=str(n + 1)).with_inputs("number") for n in range(12)]
    made = dspy.BootstrapFinetune(num_threads=1).compile(student, trainset=rows, teacher=teacher)
    tuned = made.lm
    if not tuned.model.startswith("ft:"):
        raise AssertionError(f"{tuned.model} is not a tuned model")
    tuned(QUESTION)
with check("base"):
    dspy.LM(f"openai/{BASE}", **there)(QUESTION)
with check("tuned"):
    expect(dspy.LM(f"openai/{TUNED}", **there)(QUESTION), [ANSWER])
with check("two turns"):
    dspy.LM(f"openai/{TUNED}", **there)(messages=TWO_TURNS)
