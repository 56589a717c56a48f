"""Encoders of the Hugging Face hub, by id or as a folder: safetensors and JSON alone, and no code of theirs is run."""
