"""TensorRT engines: their flavours, what identifies one, and where they are kept."""
