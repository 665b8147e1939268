"""The reranker: finds from the question alone the passages that a rationale would have found (KARD equation 4)."""
