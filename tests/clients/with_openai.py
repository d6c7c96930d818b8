"""openai for Python: the whole road."""

import time
from pathlib import Path

from checks import ANSWER, BASE, BASE_URL, KEY, QUESTION, TRAIN, TUNED, TWO_TURNS, check, expect, version
from openai import OpenAI

version("openai")
client = OpenAI(base_url=BASE_URL, api_key=KEY)
asked = [{"role": "user", "content": QUESTION}]

with check("tune"):
    file = client.files.create(file=Path(TRAIN), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(model=BASE, training_file=file.id, suffix="python")
    while job.status not in ("succeeded", "failed", "cancelled"):
        time.sleep(0.5)
        job = client.fine_tuning.jobs.retrieve(job.id)
    expect(job.status, "succeeded")
    client.chat.completions.create(model=job.fine_tuned_model, messages=asked, max_tokens=8)
with check("base"):
    expect(client.chat.completions.create(model=BASE, messages=asked, max_tokens=4).object, "chat.completion")
with check("tuned"):
    expect(client.chat.completions.create(model=TUNED, messages=asked).choices[0].message.content, ANSWER)
with check("stream"), client.chat.completions.stream(model=TUNED, messages=asked) as events:
    expect("".join(event.delta for event in events if event.type == "content.delta"), ANSWER)
with check("two turns"):
    client.chat.completions.create(model=TUNED, messages=TWO_TURNS, max_tokens=8)
