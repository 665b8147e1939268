"""A served run in LangChain: its passages, and its student (`kard serve RUN`; `pip install langchain-core`)."""

import json
from typing import Any
from urllib.request import Request, urlopen

from langchain_core.documents import Document
from langchain_core.language_models import SimpleChatModel
from langchain_core.retrievers import BaseRetriever


def ask(url: str, body: dict[str, Any]) -> Any:
    sent = Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    return json.load(urlopen(sent, timeout=120))


class KardRetriever(BaseRetriever):
    address: str = "http://127.0.0.1:8000"

    def _get_relevant_documents(self, query: str, **_: Any) -> list[Document]:
        found = ask(f"{self.address}/v1/search", {"query": query, "k": 5})["passages"]
        return [Document(one["text"], id=one["id"], metadata={"source": one["source"]}) for one in found]


class KardChat(SimpleChatModel):
    address: str = "http://127.0.0.1:8000"
    _llm_type = "kard"

    def _call(self, messages: Any, stop: Any = None, run_manager: Any = None, **more: Any) -> str:
        asked = {"model": "kard_reranker", "messages": [{"role": "user", "content": messages[-1].text}], "stop": stop}
        return str(ask(f"{self.address}/v1/chat/completions", asked | more)["choices"][0]["message"]["content"])
