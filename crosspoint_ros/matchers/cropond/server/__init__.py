"""The model on an OpenAI-compatible server: HTTP client, capabilities, handshake."""
