"""A served run in LangChain: its passages, and its student (`kard serve RUN`; `pip install langchain-core`)."""

import json
from urllib.request import Request, urlopen

from langchain_core.documents import Document
from langchain_core.language_models import SimpleChatModel
from langchain_core.retrievers import BaseRetriever


def ask(url, body):
    sent = Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    return json.load(urlopen(sent, timeout=120))


class KardRetriever(BaseRetriever):
    address: str = "http://127.0.0.1:8000"

    def _get_relevant_documents(self, query, *, run_manager):
        found = ask(f"{self.address}/v1/search", {"query": query, "k": 5})["passages"]
        return [Document(one["text"], id=one["id"], metadata={"source": one["source"]}) for one in found]


class KardChat(SimpleChatModel):
    address: str = "http://127.0.0.1:8000"
    _llm_type = "kard"

    def _call(self, messages, stop=None, run_manager=None, **more):
        asked = {"model": "kard_reranker", "messages": [{"role": "user", "content": messages[-1].text}], "stop": stop}
        return ask(f"{self.address}/v1/chat/completions", asked | more)["choices"][0]["message"]["content"]
