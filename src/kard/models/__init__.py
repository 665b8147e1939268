"""Model files, and the training that students and rerankers share."""
