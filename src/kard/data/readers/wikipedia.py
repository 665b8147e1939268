"""All of the English Wikipedia as plain text, from the dataset hub, streamed: nothing of it is kept but the passages."""

from __future__ import annotations

from collections.abc import Iterator

from kard.data.readers.documents import Document
from kard.data.readers.hub import load
from kard.errors import UserError

DATASET, CONFIG = "wikimedia/wikipedia", "20231101.en"


def wikipedia_documents() -> Iterator[Document]:
    """Articles, from columns ``id, url, title, text``; a document's source is its address.

    Raises:
        UserError: The hub cannot be reached.
    """
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined] # of the HTTP client, no OSError

    rows = load(DATASET, CONFIG, split="train", streaming=True)
    try:
        for row in rows:
            yield Document(row["id"], row["title"], row["text"], row["url"])
    except (OSError, HTTPError) as error:
        raise UserError(
            f"{DATASET}: the download broke off ({error}). Run the same command again, or download its parquet files and "
            "name their folder (knowledge.kind: parquet)."
        ) from error
