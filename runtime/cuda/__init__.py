"""CUDA streams, memory and graphs behind one small interface."""
