"""Packs of blocks: manifests, the byte interface between a pack and the runtime, and loading (blocks spec §20)."""
