"""LlamaIndex's finetune engine; its own LLM takes the second part of `ft:BASE:...` for one of OpenAI's models."""

import os
import time

from checks import ALIAS, ANSWER, BASE, BASE_URL, KEY, QUESTION, TRAIN, TUNED, check, expect, version

os.environ["OPENAI_BASE_URL"], os.environ["OPENAI_API_KEY"] = BASE_URL, KEY  # it takes them from there alone
os.environ["OPENAI_API_BASE"] = BASE_URL

from llama_index.core.llms import ChatMessage  # noqa: E402
from llama_index.finetuning import OpenAIFinetuneEngine  # noqa: E402
from llama_index.llms.openai_like import OpenAILike  # noqa: E402

version("llama-index-finetuning")


def llm(model: str) -> OpenAILike:
    return OpenAILike(model=model, api_base=BASE_URL, api_key=KEY, is_chat_model=True, max_tokens=8, temperature=0)


with check("tune"):
    engine = OpenAIFinetuneEngine(ALIAS, TRAIN, validate_json=False)
    engine.finetune()
    while engine.get_current_job().status not in ("succeeded", "failed", "cancelled"):
        time.sleep(0.5)
    engine.get_finetuned_model(api_base=BASE_URL).complete(QUESTION, max_tokens=8)
with check("base"):
    llm(BASE).complete(QUESTION)
with check("tuned"):
    expect(llm(TUNED).complete(QUESTION).text, ANSWER)
with check("stream"):
    expect("".join(part.delta or "" for part in llm(TUNED).stream_complete(QUESTION)), ANSWER)
with check("two turns"):
    said = [("user", "1"), ("assistant", "2"), ("user", QUESTION)]
    llm(TUNED).chat([ChatMessage(role=role, content=text) for role, text in said])
