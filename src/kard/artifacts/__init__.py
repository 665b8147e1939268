"""What a run consists of on disk: folders with keys, manifests and checksums, and the files in them."""
