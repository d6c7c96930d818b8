"""google-genai 1.10 on the Gemini wire: the last series that sends training examples."""

import time

from checks import ADDRESS, ANSWER, BASE, KEY, QUESTION, TUNED_ID, check, expect, version
from google import genai
from google.genai import types

version("google-genai")
client = genai.Client(api_key=KEY, http_options=types.HttpOptions(base_url=ADDRESS))
tuned = f"tunedModels/{TUNED_ID}"
short = types.GenerateContentConfig(max_output_tokens=8)

with check("tune"):
    pairs = [("1", "2"), ("3", "4"), ("8", "9"), ("one", "two")]
    examples = [types.TuningExample(text_input=one, output=other) for one, other in pairs]
    job = client.tunings.tune(
        base_model=f"models/{BASE}",
        training_dataset=types.TuningDataset(examples=examples),
        config=types.CreateTuningJobConfig(
            epoch_count=1, batch_size=2, learning_rate=0.001, tuned_model_display_name="genai"
        ),
    )
    while not job.has_ended:
        time.sleep(0.5)
        job = client.tunings.get(name=job.name)
    expect(job.has_succeeded, True)
    client.models.generate_content(model=job.tuned_model.model, contents=QUESTION, config=short)
with check("base"):
    client.models.generate_content(model=BASE, contents=QUESTION, config=short)
with check("tuned"):
    expect(client.models.generate_content(model=tuned, contents=QUESTION).text, ANSWER)
with check("stream"):
    parts = client.models.generate_content_stream(model=tuned, contents=QUESTION)
    expect("".join(part.text or "" for part in parts), ANSWER)
with check("two turns"):
    chat = client.chats.create(model=tuned, config=short)
    chat.send_message("1")
    chat.send_message(QUESTION)
