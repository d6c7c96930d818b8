"""LiteLLM, by both of its roads: `openai/NAME`, and `gemini/tunedModels/ID`."""

import time
from pathlib import Path

import litellm
from checks import (
    ADDRESS,
    ANSWER,
    BASE,
    BASE_URL,
    KEY,
    QUESTION,
    TRAIN,
    TUNED,
    TUNED_ID,
    TWO_TURNS,
    check,
    expect,
    version,
)

version("litellm")
openai = {"api_base": BASE_URL, "api_key": KEY, "max_tokens": 8}
asked = [{"role": "user", "content": QUESTION}]


def text_of(parts) -> str:
    return "".join(part.choices[0].delta.content or "" for part in parts)


with check("tune"):
    there = {"custom_llm_provider": "openai", "api_base": BASE_URL, "api_key": KEY}
    with Path(TRAIN).open("rb") as rows:
        file = litellm.create_file(file=rows, purpose="fine-tune", **there)
    job = litellm.create_fine_tuning_job(model=BASE, training_file=file.id, suffix="litellm", **there)
    while job.status not in ("succeeded", "failed", "cancelled"):
        time.sleep(0.5)
        job = litellm.retrieve_fine_tuning_job(fine_tuning_job_id=job.id, **there)
    expect(job.status, "succeeded")
with check("base"):
    litellm.completion(model=f"openai/{BASE}", messages=asked, **openai)
with check("tuned"):
    answer = litellm.completion(model=f"openai/{TUNED}", messages=asked, **openai)
    expect(answer.choices[0].message.content, ANSWER)
with check("stream"):
    expect(text_of(litellm.completion(model=f"openai/{TUNED}", messages=asked, stream=True, **openai)), ANSWER)
with check("two turns"):
    litellm.completion(model=f"openai/{TUNED}", messages=TWO_TURNS, **openai)
with check("gemini/tunedModels"):
    gemini = {"model": f"gemini/tunedModels/{TUNED_ID}", "api_base": f"{ADDRESS}/v1beta", "api_key": KEY}
    expect(litellm.completion(messages=asked, **gemini).choices[0].message.content, ANSWER)
    expect(text_of(litellm.completion(messages=asked, stream=True, **gemini)), ANSWER)
    litellm.completion(messages=TWO_TURNS, max_tokens=8, **gemini)
