"""A DOUBLE of torchaudio, which the trainer imports and which training on images never calls."""
