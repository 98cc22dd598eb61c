"""Bytes on disk: files that are whole or absent, downloads, containers of tensors."""
