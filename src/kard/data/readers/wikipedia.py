"""All of the English Wikipedia as plain text, from the dataset hub, streamed: nothing of it is kept but the passages."""

from __future__ import annotations

from collections.abc import Iterator
from time import sleep

from kard.data.readers.documents import Document
from kard.data.readers.hub import load
from kard.errors import UserError
from kard.progress import duration, say

DATASET, CONFIG = "wikimedia/wikipedia", "20231101.en"
# Seconds to wait each time that the download breaks off: it outlives half an hour without a network.
_WAITS = (10, 60, 300, 600, 900)


def wikipedia_documents() -> Iterator[Document]:
    """Articles, from columns ``id, url, title, text``; a document's source is its address. Where the download breaks off, it goes
    on at the next article.

    Raises:
        UserError: The hub cannot be reached, or not for half an hour.
    """
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined] # of the HTTP client, no OSError

    rows = load(DATASET, CONFIG, split="train", streaming=True)
    waits = iter(_WAITS)
    while True:
        try:
            for row in rows:
                waits = iter(_WAITS)
                yield Document(row["id"], row["title"], row["text"], row["url"])
            return
        except (OSError, HTTPError) as error:
            wait = next(waits, None)
            if wait is None:
                raise UserError(
                    f"{DATASET}: the download broke off ({error}). Run the same command again, or download its parquet "
                    "files and name their folder (knowledge.kind: parquet)."
                ) from error
            say(f"  {DATASET}: the download broke off ({error}); it goes on in {duration(wait)}")
        sleep(wait)
        rows.load_state_dict(rows.state_dict())
