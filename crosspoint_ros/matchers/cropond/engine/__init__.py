"""The model in this process: loading, KV cache, decoding (needs torch and transformers)."""
