"""LangChain's ChatOpenAI."""

from checks import ANSWER, BASE, BASE_URL, KEY, QUESTION, TUNED, check, expect, version
from langchain_core.messages import AIMessage, HumanMessage
from langchain_openai import ChatOpenAI

version("langchain-openai")


def chat(model: str) -> ChatOpenAI:
    return ChatOpenAI(model=model, base_url=BASE_URL, api_key=KEY, max_tokens=8)


with check("base"):
    chat(BASE).invoke(QUESTION)
with check("tuned"):
    expect(chat(TUNED).invoke(QUESTION).content, ANSWER)
with check("stream"):
    expect("".join(str(part.content) for part in chat(TUNED).stream(QUESTION)), ANSWER)
with check("two turns"):
    chat(TUNED).invoke([HumanMessage("1"), AIMessage("2"), HumanMessage(QUESTION)])
