"""Students: small language models that write a rationale and an answer with passages in front of them."""
